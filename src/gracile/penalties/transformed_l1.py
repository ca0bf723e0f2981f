"""Transformed l1: between l0 (a -> 0) and l1 (a -> infinity)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from gracile.core.errors import InputError
from gracile.penalties.base import check

# Terms of a series that take as long as an arc sine, a sine and a square root.
SERIES = 12


def threshold(mu: float, a: float) -> float:
    """The absolute value up to which a weight becomes 0.

    From @zhang2017, theorem 3.1, with the second branch corrected.
    """
    if mu <= a * a / (2 * (a + 1)):
        return mu * (a + 1) / a
    return math.sqrt(2 * mu * (a + 1)) - a / 2


def transformed_threshold(w: Tensor, mu: float, a: float) -> Tensor:
    """The proximal map of ``mu (a + 1)|w| / (a + |w|)``, for `w` of any shape.

    The published root ``2/3 (a + |w|) cos(phi/3) - 2a/3 + |w|/3`` with
    ``phi = arccos(1 - 27 mu a (a+1) / (2 (a+|w|)^3))`` subtracts nearly
    equal numbers for large a. Here it stands as the identical ``|w| - 4/3 (a + |w|) sin^2(phi/6)``, with ``phi/2``
    taken as an arc sine, which keeps all digits.

    Args:
        w: weights.
        mu: at least 0.
        a: shape, above 0.
    """
    # A bound that the weights' precision cannot hold leaves out nothing it can hold either.
    kept = F.hardshrink(w, min(threshold(mu, a), torch.finfo(w.dtype).max))
    size = kept.abs()
    # Clamped so that an infinite weight gives infinity minus 0, not infinity times 0.
    shifted = (size + a).clamp_(max=torch.finfo(w.dtype).max / 4)
    # sin^2(phi/2) = 27 mu a (a+1) / (4 (a+|w|)^3), by its cube root: the cube itself would overflow float32 beyond 7e12.
    root = (6.75 * mu * a * (a + 1)) ** (1 / 3)
    ratio = root / shifted
    if series := _series(root / a, torch.finfo(w.dtype).eps):
        cube, sixth = ratio.pow_(3), torch.full_like(ratio, series[-1])
        for coefficient in reversed(series[:-1]):
            sixth.mul_(cube).add_(coefficient)
        sixth.mul_(cube)
    else:
        sixth = ratio.sqrt().mul_(ratio).clamp_(max=1.0).asin_().div_(3).sin_().square_()
    return torch.addcmul(kept, kept.sign(), shifted.mul_(sixth), value=-4 / 3)


def _series(ratio: float, rounding: float) -> list[float]:
    """Coefficients of ``sin^2(phi/6)`` as a series in ``t = sin^2(phi/2)``, from t on; none where it is no quicker than the functions.

    ``cos(2/3 arcsin(s)) = F(1/3, -1/3; 1/2; s^2)``, Gauss's series, whose terms fall faster than powers of t.

    Args:
        ratio: the cube root of the largest t.
        rounding: of the dtype, relative: where the series may end.
    """
    terms = (
        1 if ratio == 0 else math.ceil(math.log(rounding / 4) / (3 * math.log(ratio))) if ratio < 0.9 else SERIES + 1
    )
    if terms > SERIES:
        return []
    found, term = [], -0.5
    for k in range(terms):
        term *= (k * k - 1 / 9) / ((k + 0.5) * (k + 1))
        found.append(term)
    return found


class TransformedL1:
    """``P(w) = sum (a + 1)|w_i| / (a + |w_i|)`` [@dinh2020, chapter 3; @nikolova2000, @zhang2017].

    Args:
        a: shape, above 0; l0 as it goes to 0, l1 as it goes to infinity.

    Raises:
        InputError: `a` is not a positive finite number.
    """

    name: ClassVar[str] = "transformed_l1"
    convex: ClassVar[bool] = False

    def __init__(self, a: float = 1.0) -> None:
        if not (a > 0 and math.isfinite(a)):
            raise InputError(
                f"Transformed l1 needs a finite a > 0, not {a}.",
                "Near l0 take a = 0.01, near l1 a = 100; or use those penalties.",
            )
        self.a = float(a)

    def value(self, w: Tensor) -> Tensor:
        # As (a+1)(1 - a/(a+|w|)): an infinite weight counts a + 1, its limit.
        return ((self.a + 1) * (1 - self.a / (self.a + w.abs()))).sum()

    def prox(self, w: Tensor, mu: float) -> Tensor:
        check(w, mu)
        return transformed_threshold(w, mu, self.a)

    def unchecked_prox(self, w: Tensor, mu: float) -> Tensor:
        return transformed_threshold(w, mu, self.a)

    def critical_mu(self, size: Tensor) -> Tensor:
        a = self.a
        return torch.where(size <= a / 2, size * (a / (a + 1)), (size + a / 2).square() / (2 * (a + 1)))
