"""The l1 norm: sum of absolute values."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from gracile.penalties.base import check, soft_threshold


class L1:
    """``P(w) = sum |w_i|`` [@dinh2020, chapter 3; @tibshirani1996]."""

    name: ClassVar[str] = "l1"
    convex: ClassVar[bool] = True

    def value(self, w: Tensor) -> Tensor:
        return w.abs().sum()

    def prox(self, w: Tensor, mu: float) -> Tensor:
        check(w, mu)
        # An infinite weight minus its clipped part is still infinite; no special case.
        return soft_threshold(w, mu)

    def unchecked_prox(self, w: Tensor, mu: float) -> Tensor:
        return soft_threshold(w, mu)

    def critical_mu(self, size: Tensor) -> Tensor:
        return torch.as_tensor(size)
