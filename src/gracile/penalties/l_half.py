"""The l1/2 quasi-norm: between l0 and l1, with a closed form of its own."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from gracile.penalties.base import check


def half_threshold(w: Tensor, mu: float) -> Tensor:
    """The proximal map of ``mu sum sqrt|w_i|``, for `w` of any shape.

    It is 0 up to ``3/2 mu^(2/3)``, else the largest root of ``u - |w| + mu/(2 sqrt u)``.

    @xu2012, theorem 1, whose lam is 2 mu. The published root ``2/3 |w| (1 + cos(2 pi/3 - 2/3 phi))``,
    ``phi = arccos(mu/4 (|w|/3)^(-3/2))``, stands here as the identical
    ``|w| - 4/3 |w| sin((pi + s)/3) sin(s/3)``, ``s = pi/2 - phi``, which keeps the digits of what is taken off.

    Args:
        w: weights.
        mu: at least 0.
    """
    size = w.abs()
    # An infinite weight gives infinity minus 0, not infinity times 0.
    finite = size.clamp(max=torch.finfo(w.dtype).max)
    # By the cube root of mu, whose own power would leave float32 before the quotient does.
    s = ((3 * (mu / 4) ** (2 / 3)) / finite).clamp_(max=1.0).pow_(1.5).asin_()
    taken = finite.mul_(((math.pi + s) / 3).sin_()).mul_((s / 3).sin_())
    root = torch.sub(size, taken, alpha=4 / 3)
    return torch.copysign(root, w).masked_fill_(size <= 1.5 * mu ** (2 / 3), 0.0)


class LHalf:
    """``P(w) = sum sqrt|w_i|`` [@xu2012]."""

    name: ClassVar[str] = "l_half"
    convex: ClassVar[bool] = False

    def value(self, w: Tensor) -> Tensor:
        return w.abs().sqrt().sum()

    def prox(self, w: Tensor, mu: float) -> Tensor:
        check(w, mu)
        return half_threshold(w, mu)

    def unchecked_prox(self, w: Tensor, mu: float) -> Tensor:
        return half_threshold(w, mu)

    def critical_mu(self, size: Tensor) -> Tensor:
        return (size / 1.5).pow(1.5)
