"""The networks that the recipes put ReDense into: a small MLP, the published CNN, or one the user names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError, pick
from gracile.core.seeding import derive_seed
from gracile.core.tensor_files import load_weights
from gracile.data import Dataset, Splits
from gracile.recipes.arms import Part
from gracile.recipes.own import is_own, own
from gracile.recipes.schema import Strict
from gracile.recipes.weights import save_weights
from gracile.training import fit


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
    """The CNN of [@javid2021, section 6.2.3.2]; padding as in the Keras example it follows ("same", then "valid", in each pair)."""
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
    file = part.path / "base.safetensors"
    if file.exists():
        load_weights(network, file, "Delete it, and it is trained again.")
        return network
    # Plain descent; Adam's weight of past gradients is its usual one.
    momentum = {"sgd": 0.0, "adam": 0.9}
    fit(
        network,
        Splits(splits.train, splits.validation.subset([]), splits.test),
        epochs=base.epochs,
        batch_size=base.batch_size,
        optimizer=base.optimizer,
        lr=base.lr,
        momentum=pick(momentum, base.optimizer, "optimizer"),
        weight_decay=0.0,
        objective=pick(LOSSES, part.arm, "loss"),
        seed=part.seed,
        precision="float32",
        folder=part.folder,
        resume=True,
        progress=f"base network, {part.label}" if part.shown else None,
    )
    save_weights(network, file)
    return network
