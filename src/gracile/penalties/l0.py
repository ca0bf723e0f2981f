"""The l0 "norm": the count of non-zeros."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from gracile.penalties.base import check


def hard_threshold(w: Tensor, mu: float) -> Tensor:
    """`w` where ``|w| > sqrt(2 mu)``, else 0: the proximal map of ``mu`` times the count of non-zeros, for `w` of
    any shape."""
    # Written as "zero what is small" rather than "keep what is large": a NaN is not small, so it stays and is seen.
    return w.masked_fill(w.abs() <= math.sqrt(2 * mu), 0.0)


class L0:
    """``P(w) = #{i: w_i != 0}`` (spec table; Blumensath and Davies 2008)."""

    name: ClassVar[str] = "l0"
    convex: ClassVar[bool] = False

    def value(self, w: Tensor) -> Tensor:
        return (w != 0).sum().to(w.dtype)

    def prox(self, w: Tensor, mu: float) -> Tensor:
        check(w, mu)
        return hard_threshold(w, mu)

    def shadow(self, w: Tensor, mu: float) -> Tensor:
        return hard_threshold(w, mu)

    def critical_mu(self, size: Tensor) -> Tensor:
        return size.square() / 2
