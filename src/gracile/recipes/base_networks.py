"""The networks that the recipes put ReDense into: a small MLP, the published CNN, or one the user names."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from gracile.core.errors import pick
from gracile.core.seeding import derive_seed
from gracile.core.tensor_files import load_weights, save_weights
from gracile.core.user_code import made
from gracile.data import Dataset, Splits
from gracile.recipes.arms import Part
from gracile.recipes.schema import Strict
from gracile.training import fit
from gracile.training.objectives import Loss, on_probabilities
from gracile.training.optimizers import USUAL_MOMENTUM


class Base(Strict):
    """How the network is trained before ReDense is put in.

    Attributes:
        optimizer: a row of `gracile.training.optimizers.OPTIMIZERS`, with its usual momentum.
        lr: of the training.
        epochs: of the training; 0 leave a network as it comes.
        batch_size: of the training.
    """

    optimizer: str = "adam"
    lr: float = Field(default=1e-3, gt=0)
    epochs: int = Field(default=15, ge=0)
    batch_size: int = Field(default=128, ge=1)


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


# As in Keras, where the network ends in a softmax.
LOSSES: dict[str, Loss] = {
    "ce": nn.functional.cross_entropy,
    "mse": on_probabilities(nn.functional.mse_loss),
    "poisson": on_probabilities(lambda p, t: nn.functional.poisson_nll_loss(p, t, log_input=False, eps=1e-7)),
    "huber": on_probabilities(nn.functional.huber_loss),
}


def build(name: str, data: Dataset, hidden: int, seed: int) -> nn.Module:
    """A network by its row in `NETWORKS`, or by ``FILE.py:NAME`` or ``package.module:NAME`` (called without arguments).

    Raises:
        InputError: no such network.
    """
    if ":" in name:
        return made(name, {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights", name))
        return pick(NETWORKS, name, "network")(data.input_shape, data.num_classes, hidden)


def trained(network: nn.Module, splits: Splits, base: Base, part: Part) -> nn.Module:
    """The network after training by the loss that the arm is called after, read from the part's folder once it is there."""
    file = part.path / "base.safetensors"
    if file.exists():
        load_weights(network, file, "Delete it, and it is trained again.")
        return network
    fit(
        network, Splits(splits.train, splits.validation.subset([]), splits.test), **base.model_dump(),
        momentum=pick(USUAL_MOMENTUM, base.optimizer, "optimizer"), objective=pick(LOSSES, part.arm, "loss"),
        weight_decay=0.0, seed=part.seed, precision="float32", folder=part.folder, resume=True,
        progress=f"base network, {part.label}" if part.shown else None,
    )  # fmt: skip
    save_weights(network, file)
    return network
