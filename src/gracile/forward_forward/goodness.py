"""Measures of how active a layer is: one row each.

A layer of forward-forward is trained on one number per sample, its goodness, with nothing behind the layer: the
gradient is a closed form, and no graph is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Goodness:
    """A measure of activations h = relu(z).

    Attributes:
        value: h (b, n) to the goodness (b,).
        pull: h (b, n) and a factor per sample (b,) to ``factor * d value / d z`` (b, n).
    """

    value: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor, Tensor], Tensor]

    def of_ones(self, width: int) -> float:
        """Its value where every one of `width` activations is 1, the unit in which thresholds are given."""
        return self.value(torch.ones(1, width, dtype=torch.float64)).item()


# Functions by name and not lambdas, so that networks can be pickled.
def _squared_sum(h: Tensor) -> Tensor:
    return h.square().sum(1)


def _squared_sum_pull(h: Tensor, factor: Tensor) -> Tensor:
    return h * (2 * factor)[:, None]


def _mean_square(h: Tensor) -> Tensor:
    return h.square().mean(1)


def _mean_square_pull(h: Tensor, factor: Tensor) -> Tensor:
    return h * (2 / h.shape[1] * factor)[:, None]


def _mean(h: Tensor) -> Tensor:
    return h.mean(1)


def _mean_pull(h: Tensor, factor: Tensor) -> Tensor:
    return (h > 0) * (factor / h.shape[1])[:, None]


def _length(h: Tensor) -> Tensor:
    return torch.linalg.vector_norm(h, dim=1) / math.sqrt(h.shape[1])


def _length_pull(h: Tensor, factor: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(h, dim=1)
    # Where nothing is active nothing moves: the gradient of relu is 0 there.
    return h * (factor / (length.clamp_min(torch.finfo(h.dtype).tiny) * math.sqrt(h.shape[1])))[:, None]


# @hinton2022 sums squares, most code takes their mean; the others grow linearly with the activations.
GOODNESS = {
    "squared_sum": Goodness(_squared_sum, _squared_sum_pull),
    "mean_square": Goodness(_mean_square, _mean_square_pull),
    "mean": Goodness(_mean, _mean_pull),
    "length": Goodness(_length, _length_pull),
}
