"""The minimax concave penalty: l1 near 0, flat from gamma on."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from gracile.penalties.base import check, positive, soft_threshold


def firm_threshold(w: Tensor, mu: float, gamma: float) -> Tensor:
    """The proximal map of ``mu int_0^|w| (1 - x/gamma)_+ dx``, for `w` of any shape [@zhang2010; @gao1997].

    For ``mu < gamma`` the objective is convex: 0 up to mu, a line of slope ``1/(1 - mu/gamma)`` up to gamma, `w` beyond.
    From ``mu = gamma`` on it is concave on [0, gamma], so that only 0 and `w` are left, which tie at ``sqrt(mu gamma)``.

    Args:
        w: weights.
        mu: at least 0.
        gamma: absolute value from which a weight pays no more, above 0.
    """
    if mu >= gamma:
        return w.masked_fill(w.abs() <= math.sqrt(mu * gamma), 0.0)
    # A line that is all but upright would amplify rounding without bound.
    line = (soft_threshold(w, mu) / (1 - mu / gamma)).clamp(-gamma, gamma)
    return torch.where(w.abs() <= gamma, line, w)


class MCP:
    """The minimax concave penalty ``P(w) = sum_i int_0^|w_i| (1 - x/gamma)_+ dx``.

    ``|w| - w^2/(2 gamma)`` up to gamma, ``gamma/2`` beyond [@zhang2010, eq. 2.1, with its lam taken out as the factor before P].

    Args:
        gamma: absolute value from which a weight pays no more, above 0; l1 as it goes to infinity.

    Raises:
        InputError: `gamma` is not a positive finite number.
    """

    name: ClassVar[str] = "mcp"
    convex: ClassVar[bool] = False

    def __init__(self, gamma: float = 1.0) -> None:
        self.gamma = positive(gamma, "MCP", "gamma", "the size from which a weight is not to be shrunk")

    def value(self, w: Tensor) -> Tensor:
        # Clamped before the square: a weight beyond gamma, infinity included, counts gamma / 2.
        size = w.abs().clamp(max=self.gamma)
        return (size - size.square() / (2 * self.gamma)).sum()

    def prox(self, w: Tensor, mu: float) -> Tensor:
        check(w, mu)
        return firm_threshold(w, mu, self.gamma)

    def unchecked_prox(self, w: Tensor, mu: float) -> Tensor:
        return firm_threshold(w, mu, self.gamma)

    def critical_mu(self, size: Tensor) -> Tensor:
        return torch.where(size <= self.gamma, size, size.square() / self.gamma)
