"""Forward-forward watched while it learns: what the laws predict of each step, and what the step then does.

The layer is the one of @yang2023: relu, no bias, weights N(0, 2 / n) (a variance), inputs of length 1, plain gradient
descent on the sum over the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gracile.forward_forward.labels import random_wrong, write_labels
from gracile.forward_forward.laws import SparsityChange, hoyer_sparsity, network_changes, theorem1, theorem2
from gracile.forward_forward.losses import LOSSES
from gracile.forward_forward.network import FFNetwork
from gracile.forward_forward.normalization import NORMALIZATIONS

DECREASE = "decrease"
"""In place of a loss: the goodness of all samples goes down, as in theorem 1."""


@dataclass(frozen=True)
class Seen:
    """One kind of samples at one step.

    Attributes:
        predicted: share in [0, 1] that the law says gets sparser.
        real: share that did.
        agree: share of samples for which law and step say the same.
        sparsity: mean before the step.
    """

    predicted: float
    real: float
    agree: float
    sparsity: float


def seen(change: SparsityChange, before: Tensor, after: Tensor) -> Seen:
    """Compare a prediction with what came of it.

    Args:
        change: of each sample.
        before: activations (b, n) of the samples before the step.
        after: activations (b, n) of the same samples after it.

    Returns:
        Shares over the samples that activate something at both times.
    """
    # In float64, since a small step moves sparsity by less than float32 tells apart.
    then, now = (hoyer_sparsity(h.double(), undefined="nan") for h in (before, after))
    defined = ~(then.isnan() | now.isnan())
    sparser, predicted = (now > then)[defined].double(), change.sparser[defined].double()
    return Seen(
        predicted.mean().item(),
        sparser.mean().item(),
        (sparser == predicted).double().mean().item(),
        then[defined].mean().item(),
    )


def random_layer(width: int, features: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    """Weights (width, features) from N(0, 2 / width)."""
    return torch.randn(width, features, generator=generator, dtype=dtype) * (2 / width) ** 0.5


def unit_pairs(x: Tensor, y: Tensor, num_classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Positive and negative samples: rows x (b, m) with the right and a random wrong label over the first features, length 1."""
    unit = NORMALIZATIONS["length"]
    wrong = random_wrong(y, num_classes, generator)
    return unit(write_labels(x, y, num_classes)), unit(write_labels(x, wrong, num_classes))


def step_layer(
    weights: Tensor,
    positive: Tensor,
    negative: Tensor | None,
    lr: float,
    *,
    loss: str,
    threshold: float,
    sharpness: float,
) -> dict[str, Seen]:
    """One step of gradient descent on a layer, in place.

    Args:
        weights: (n, m).
        positive: (b, m) of length 1.
        negative: (b, m) of length 1; None for `DECREASE`.
        lr: step size on the sum over the batch.
        loss: see `theorem2`; or `DECREASE`.
        threshold: see `theorem2`.
        sharpness: see `theorem2`.

    Returns:
        What was seen, by ``positive`` and ``negative``.
    """
    h = torch.relu(positive @ weights.T)
    if negative is None:
        changes = {"positive": theorem1(positive, h, (positive, h), undefined="nan")}
        pairs = {"positive": (positive, h)}
        descent = h.T @ positive
    else:
        pairs = {"positive": (positive, h), "negative": (negative, torch.relu(negative @ weights.T))}
        both = (pairs["positive"], pairs["negative"])
        options = {"loss": loss, "threshold": threshold, "sharpness": sharpness}
        changes = {name: theorem2(*pair, *both, undefined="nan", **options) for name, pair in pairs.items()}
        goods = [one.square().sum(1) for _, one in both]
        local = LOSSES[loss](goods[0], goods[1], threshold, sharpness)
        descent = (local.by_positive[:, None] * both[0][1]).T @ positive
        descent += (local.by_negative[:, None] * both[1][1]).T @ negative
    weights -= 2 * lr * descent
    return {name: seen(changes[name], one, torch.relu(x @ weights.T)) for name, (x, one) in pairs.items()}


def step_network(network: FFNetwork, x: Tensor, y: Tensor, wrong: Tensor, lr: float) -> dict[str, list[Seen]]:
    """One step of gradient descent on the summed local losses of a whole network, in place; what was seen in each layer."""
    labels = {"positive": y, "negative": wrong}
    with torch.no_grad():
        before = {name: network.activations(x, shown) for name, shown in labels.items()}
        changes = {
            name: network_changes(network, x, y, wrong, shown, undefined="nan") for name, shown in labels.items()
        }
        network.gradients(x, y, wrong)
        for parameter in network.parameters():
            assert parameter.grad is not None
            parameter -= lr * len(x) * parameter.grad
        after = {name: network.activations(x, shown) for name, shown in labels.items()}
    return {
        name: [seen(*layer) for layer in zip(changes[name], before[name], after[name], strict=True)] for name in labels
    }


def dead_units(layers: Sequence[Tensor]) -> list[float]:
    """Share of units in each layer that no sample of activations (b, n) turns on."""
    return [(h == 0).all(0).double().mean().item() for h in layers]
