"""SCAD, the smoothly clipped absolute deviation: l1 up to a knot, then less and less, flat from a times the knot on."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from gracile.core.errors import InputError
from gracile.penalties.base import check, positive, soft_threshold


def scad_threshold(w: Tensor, mu: float, a: float, knot: float) -> Tensor:
    """The proximal map of mu times `SCAD`'s P, for `w` of any shape [@fan2001, eq. 2.8, for any mu].

    The published rule stands for a knot of mu alone. For any pair the objective ``1/2 (u - w)^2 + mu P(u)`` is

    - convex for ``mu < (a - 1) knot``: soft threshold up to ``knot + mu``, a steeper line up to ``a knot``, `w` beyond;
    - concave on ``[knot, a knot]`` from there on, so that soft threshold jumps to `w`, with a tie at
      ``(mu + (a + 1) knot)/2``;
    - from ``mu = (a + 1) knot`` on the jump starts from 0: a hard threshold at ``sqrt(mu (a + 1) knot)``.

    Args:
        w: weights.
        mu: at least 0.
        a: shape, above 1.
        knot: absolute value up to which P is l1, above 0.
    """
    flat, size = a * knot, w.abs()
    if mu >= flat + knot:
        return w.masked_fill(size <= math.sqrt(mu * (flat + knot)), 0.0)
    soft = soft_threshold(w, mu)
    if mu >= flat - knot:
        return torch.where(size <= (mu + flat + knot) / 2, soft, w)
    # The line through (knot + mu, knot) and (flat, flat), in the form that is exact where it meets w; all but upright, it
    # would amplify rounding without bound.
    steep = (size + (size - flat) * (mu / (flat - knot - mu))).clamp(knot, flat)
    return torch.where(size <= knot + mu, soft, torch.where(size <= flat, torch.copysign(steep, w), w))


class SCAD:
    """Smoothly clipped absolute deviation, ``P(w) = sum_i int_0^|w_i| min(1, (a knot - x)_+ / ((a - 1) knot)) dx``.

    From @fan2001, eq. 2.7, where the knot and the factor before P are one number.

    Args:
        a: where P is flat, in knots, above 1; 3.7 in the paper.
        knot: absolute value up to which P is l1, above 0.

    Raises:
        InputError: `a` is not a finite number above 1, or `knot` is not a positive one.
    """

    name: ClassVar[str] = "scad"
    convex: ClassVar[bool] = False

    def __init__(self, a: float = 3.7, knot: float = 1.0) -> None:
        if not (a > 1 and math.isfinite(a)):
            raise InputError(f"SCAD needs a finite a > 1, not {a}.", "The paper takes 3.7.")
        self.a = float(a)
        self.knot = positive(knot, "SCAD", "knot", "the size up to which a weight pays as under l1")

    def value(self, w: Tensor) -> Tensor:
        size = w.abs()
        # What the bend takes off l1 between the knot and the flat.
        bend = size.clamp(self.knot, self.a * self.knot) - self.knot
        return (size.clamp(max=self.a * self.knot) - bend.square() / (2 * (self.a - 1) * self.knot)).sum()

    def prox(self, w: Tensor, mu: float) -> Tensor:
        check(w, mu)
        return scad_threshold(w, mu, self.a, self.knot)

    def unchecked_prox(self, w: Tensor, mu: float) -> Tensor:
        return scad_threshold(w, mu, self.a, self.knot)

    def critical_mu(self, size: Tensor) -> Tensor:
        hard = (self.a + 1) * self.knot
        return torch.where(size <= hard, size, size.square() / hard)
