"""How far the laws of sparsity reach: how many samples satisfy theorem 1 on a random layer, and up to which step a law foretells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gracile.core.seeding import generator
from gracile.data import Dataset, batches
from gracile.forward_forward.labels import write_labels
from gracile.forward_forward.laws import theorem1
from gracile.forward_forward.normalization import NORMALIZATIONS
from gracile.forward_forward.watching import DECREASE, Seen, random_layer, step_layer, unit_pairs


class Sides(NamedTuple):
    """Theorem 1 on many samples, each judged within its own batch.

    Attributes:
        left: (samples,) left side of the law; where it is negative, the quotient would turn.
        right: (samples,) right side.
        satisfied: (samples,) bool.
        lengths: of each batch, the mean length of the layer's answer.
    """

    left: Tensor
    right: Tensor
    satisfied: Tensor
    lengths: list[float]


def theorem1_sides(data: Dataset, *, width: int, batch_size: int, seed: int, labelled: bool = False) -> Sides:
    """Both sides of theorem 1 for every sample of whole batches, on a random layer, inputs having length 1.

    Args:
        data: images or features.
        width: units of the layer.
        batch_size: samples per batch.
        seed: of the weights and of the batches.
        labelled: whether the right label is written over the first features, as positive samples have it.
    """
    weights = random_layer(width, math.prod(data.input_shape), generator(seed, "layer"))
    order = torch.randperm(len(data), generator=generator(seed, "order"))
    changes, lengths = [], []
    for images, y in batches(data, batch_size, order=order, drop_last=True):
        x = images.flatten(1)
        x = NORMALIZATIONS["length"](write_labels(x, y, data.num_classes) if labelled else x)
        h = torch.relu(x @ weights.T)
        changes.append(theorem1(x, h, (x, h), undefined="nan"))
        lengths.append(torch.linalg.vector_norm(h, dim=1).mean().item())
    left, right, satisfied = (torch.cat([getattr(one, of) for one in changes]) for of in ("left", "right", "sparser"))
    return Sides(left, right, satisfied, lengths)


def law_reach(
    data: Dataset, lrs: Sequence[float], *, width: int = 2000, batch_size: int = 128, samples: int = 1024, seed: int = 0
) -> dict[str, list[list[Seen]]]:
    """What ``theorem 1`` and ``theorem 2`` foretell of one step from a random layer, and what the step does, in float64.

    Args:
        data: images or features.
        lrs: step sizes on the sum over a batch, each tried from the same weights.
        width: units of the layer.
        batch_size: positive samples per batch.
        samples: drawn from the data.
        seed: of weights, samples and negatives.

    Returns:
        By theorem, a list per step size of what was seen of the positive samples, one per batch.
    """
    weights = random_layer(width, math.prod(data.input_shape), generator(seed, "reach"), torch.float64)
    order = torch.randperm(len(data), generator=generator(seed, "reach order"))[:samples]
    random = generator(seed, "reach negatives")
    found: dict[str, list[list[Seen]]] = {name: [[] for _ in lrs] for name in ("theorem 1", "theorem 2")}
    for images, y in batches(data, batch_size, order=order, drop_last=True):
        positive, negative = unit_pairs(images.flatten(1).double(), y, data.num_classes, random)
        for name, other, loss in (("theorem 1", None, DECREASE), ("theorem 2", negative, "difference")):
            for lr, seen in zip(lrs, found[name], strict=True):
                step = step_layer(weights.clone(), positive, other, lr, loss=loss, threshold=0.0, sharpness=1.0)
                seen.append(step["positive"])
    return found
