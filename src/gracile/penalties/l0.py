"""The l0 "norm": the count of non-zeros."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from gracile.penalties.base import check


def hard_threshold(w: Tensor, mu: float) -> Tensor:
    """`w` where ``|w| > sqrt(2 mu)``, else 0: the proximal map of ``mu`` times the count of non-zeros.

    Args:
        w: of any shape.
        mu: at least 0.
    """
    # One vectorised pass, which zeroes what is small and so lets NaN, which is not small, stay and be seen.
    return hardshrink(w, min(math.sqrt(2 * mu), torch.finfo(w.dtype).max))


class L0:
    """``P(w) = #{i: w_i != 0}`` [@dinh2020, chapter 3; @blumensath2008]."""

    name: ClassVar[str] = "l0"
    convex: ClassVar[bool] = False

    def value(self, w: Tensor) -> Tensor:
        return (w != 0).sum().to(w.dtype)

    def prox(self, w: Tensor, mu: float) -> Tensor:
        check(w, mu)
        return hard_threshold(w, mu)

    def unchecked_prox(self, w: Tensor, mu: float) -> Tensor:
        return hard_threshold(w, mu)

    def critical_mu(self, size: Tensor) -> Tensor:
        return size.square() / 2
