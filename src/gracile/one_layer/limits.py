"""What holds at a limit: the fixed-point identity, and the bounds on angle and distance."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from gracile.one_layer.binary import coarse_slope
from gracile.one_layer.conditions import Theorem
from gracile.one_layer.risk import angle
from gracile.penalties import Penalty, elementwise
from gracile.penalties.base import unchecked
from gracile.penalties.table import Named


@dataclass(frozen=True)
class Limit:
    """A limit point held against the theorem, ``(starts,)`` each.

    Attributes:
        residual: ``|w* - m (w - u) - C w|`` for the best C: 0 where w* is, up to scale, an expansion of w (eqs. 3.13,
            3.14).
        constant: that C.
        theta: angle to w*.
        gamma: angle between u and w; pi/2 where u is zero.
        distance: ``|w - w*|``.
        bound: ``4 sqrt(2 pi) beta sin(gamma) / k`` (eq. 3.15); NaN for theorem 3.1, which gives no constant.
    """

    residual: Tensor
    constant: Tensor
    theta: Tensor
    gamma: Tensor
    distance: Tensor
    bound: Tensor


def limit_identity(
    theorem: Theorem, w: Tensor, w_star: Tensor, k: int, *, lam: float, beta: float, penalty: Named | Penalty = "l1"
) -> Limit:
    """Hold limit points of `rvsm` (3.1) or `rvscgd` (3.2) against eqs. 3.13 to 3.15.

    Where the gradient of L_beta vanishes, ``w* = m (w - u) + C w`` with ``m = beta k pi/(pi - theta)`` for theorem 3.1
    and ``m = beta 2 sqrt(2 pi)/k`` for theorem 3.2.

    Args:
        theorem: ``3.1`` or ``3.2``.
        w: last iterates, ``(starts, d)``.
        w_star: the unit teacher, ``(d,)``.
        k: patches.
        lam: weight of the penalty.
        beta: strength of the coupling.
        penalty: as in the iteration.
    """
    member = elementwise(penalty)
    u = unchecked(member)(w, lam / beta)
    theta = angle(w, w_star)
    scale = k * math.pi / (math.pi - theta) if theorem == "3.1" else theta.new_full((), 1 / coarse_slope(k))
    target = w_star - (beta * scale)[..., None] * (w - u)
    constant = (target * w).sum(-1) / w.square().sum(-1)
    residual = (target - constant[..., None] * w).norm(dim=-1)
    empty = u.norm(dim=-1) == 0
    gamma = angle(u + empty[..., None] * w, w).masked_fill(empty, math.pi / 2)
    distance = (w - w_star).norm(dim=-1)
    bound = 2 * beta / coarse_slope(k) * gamma.sin() if theorem == "3.2" else distance * math.nan
    return Limit(residual, constant, theta, gamma, distance, bound)
