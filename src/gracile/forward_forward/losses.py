"""What a layer minimises, in the goodness of a positive and of a negative sample: one row each."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


class Local(NamedTuple):
    """A local loss and its derivatives, all (b,)."""

    value: Tensor
    by_positive: Tensor
    by_negative: Tensor


Loss = Callable[[Tensor, Tensor, float, float], Local]
"""(goodness of positives (b,), of negatives (b,), threshold, sharpness) to `Local`."""


def difference(positive: Tensor, negative: Tensor, threshold: float = 0.0, sharpness: float = 1.0) -> Local:
    """``G(negative) - G(positive)`` [@yang2023, equation 5]; no use of threshold and sharpness, and no bound below."""
    return Local(negative - positive, -torch.ones_like(positive), torch.ones_like(negative))


def logistic(positive: Tensor, negative: Tensor, threshold: float = 0.0, sharpness: float = 1.0) -> Local:
    """``log(1 + exp(s (theta - G+))) + log(1 + exp(s (G- - theta)))`` [@hinton2022, section 2]."""
    below, above = sharpness * (threshold - positive), sharpness * (negative - threshold)
    return Local(-logsigmoid(-below) - logsigmoid(-above), -sharpness * below.sigmoid(), sharpness * above.sigmoid())


def pairwise(positive: Tensor, negative: Tensor, threshold: float = 0.0, sharpness: float = 1.0) -> Local:
    """``log(1 + exp(-s (G+ - G-)))``: symmetric in the pair, without a threshold [@lee2023]."""
    gap = sharpness * (negative - positive)
    pull = sharpness * gap.sigmoid()
    return Local(-logsigmoid(-gap), -pull, pull)


LOSSES: dict[str, Loss] = {"difference": difference, "logistic": logistic, "pairwise": pairwise}
