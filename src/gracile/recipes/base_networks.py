"""The networks that the recipes put ReDense into: a small MLP, the published CNN, or one the user names."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gracile.core.errors import InputError, pick
from gracile.core.seeding import derive_seed, generator
from gracile.data import Dataset, Splits, batches
from gracile.recipes.arms import Part
from gracile.recipes.own import is_own, own
from gracile.recipes.schema import Strict
from gracile.recipes.weights import save_weights

log = logging.getLogger("gracile")


class Base(Strict):
    """How the network is trained before ReDense is put in.

    Attributes:
        optimizer: "sgd" or "adam".
        lr: of the training.
        epochs: of the training; 0 leave a network as it comes.
        batch_size: of the training.
    """

    optimizer: str = "adam"
    lr: float = 1e-3
    epochs: int = 15
    batch_size: int = 128


def mlp(inputs: tuple[int, ...], classes: int, hidden: int) -> nn.Module:
    """One hidden layer of ReLUs."""
    flat = int(torch.Size(inputs).numel())
    return nn.Sequential(nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def cnn(inputs: tuple[int, ...], classes: int, hidden: int) -> nn.Module:
    """The CNN of section 6.2.3.2; padding as in the Keras example it follows ("same", then "valid", in each pair)."""
    channels, height, width = inputs
    convolution = lambda before, after, padding: [nn.Conv2d(before, after, 3, padding=padding), nn.ReLU()]
    side = lambda size: ((size - 2) // 3 - 2) // 3
    return nn.Sequential(
        *convolution(channels, 32, 1), *convolution(32, 32, 0), nn.MaxPool2d(3), nn.Dropout(0.25),
        *convolution(32, 64, 1), *convolution(64, 32, 0), nn.MaxPool2d(3), nn.Dropout(0.25),
        nn.Flatten(), nn.Linear(32 * side(height) * side(width), hidden), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(hidden, classes),
    )  # fmt: skip


NETWORKS = {"mlp": mlp, "cnn": cnn}


def _on_probabilities(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda logits, y: loss(logits.softmax(1), nn.functional.one_hot(y, logits.shape[1]).to(logits.dtype))


# As in Keras, where the network ends in a softmax: the last three compare probabilities with one-hot targets.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": nn.functional.cross_entropy,
    "mse": _on_probabilities(nn.functional.mse_loss),
    "poisson": _on_probabilities(lambda p, t: nn.functional.poisson_nll_loss(p, t, log_input=False, eps=1e-7)),
    "huber": _on_probabilities(nn.functional.huber_loss),
}


def build(name: str, data: Dataset, hidden: int, seed: int) -> nn.Module:
    """A network by its row in `NETWORKS`, or by ``FILE.py:NAME`` or ``package.module:NAME`` (called without arguments).

    Raises:
        InputError: no such network.
    """
    if ":" in name:
        made = own(name, "network")() if is_own(name) else _imported(name)()
        if not isinstance(made, nn.Module):
            raise InputError(f"{name} returned a {type(made).__name__}.", "Make it return the trained torch.nn.Module.")
        return made
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights", name))
        return pick(NETWORKS, name, "network")(data.input_shape, data.num_classes, hidden)


def _imported(name: str) -> Callable[[], Any]:
    """A function of a module that is installed, or lies in the working directory."""
    module, _, function = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"The network {name} cannot be imported: {error}.",
            "Name it as FILE.py:NAME, or a function of a module in this folder or installed.",
        ) from error


def trained(network: nn.Module, splits: Splits, base: Base, part: Part) -> nn.Module:
    """The network after training by the loss that the arm is called after, read from the part's folder once it is there."""
    data, loss, seed, file = splits.train, part.arm, part.seed, part.path / "base.safetensors"
    if file.exists():
        network.load_state_dict(load_file(file))
        return network.eval()
    objective = pick(LOSSES, loss, "loss")
    optimizers = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    optimizer = pick(optimizers, base.optimizer, "optimizer")(network.parameters(), lr=base.lr)
    network.train()
    with torch.random.fork_rng(devices=[]):
        # Dropout draws from the global generator; forked, so that nobody else's draws move.
        torch.manual_seed(derive_seed(seed, "dropout", loss))
        for epoch in range(1, base.epochs + 1):
            total = 0.0
            order = torch.randperm(len(data), generator=generator(seed, "order", epoch))
            for x, y in batches(data, base.batch_size, order=order):
                optimizer.zero_grad()
                value = objective(network(x), y)
                value.backward()
                optimizer.step()
                total += float(value.detach()) * len(y)
            log.info(
                "base network, loss %s, seed %d: epoch %d of %d, loss %.4f",
                loss,
                seed,
                epoch,
                base.epochs,
                total / len(data),
            )
    save_weights(network, file)
    return network.eval()


def accuracy(network: nn.Module, data: Dataset) -> float:
    """Share of samples classified rightly, in percent."""
    with torch.no_grad():
        right = sum(int((network(x).argmax(1) == y).sum()) for x, y in batches(data, 1000))
    return 100 * right / len(data)
