"""Group lasso: sum of the groups' l2 norms."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from gracile.penalties.base import group_prox, row_norms


def group_soft_scale(norms: Tensor, mu: float | Tensor) -> Tensor:
    """``max(1 - mu/norm, 0)``: what block soft-thresholding multiplies a group of this l2 norm by."""
    # `norm <= mu` first: a zero group stays zero also at mu = 0, and NaN stays NaN.
    return (1 - mu / norms).masked_fill(norms <= mu, 0.0)


class GroupLasso:
    """``P(w) = sum_g |w_g|_2`` [@dinh2020, chapter 3; @yuan2006, without their weights by group size]."""

    name: ClassVar[str] = "group_lasso"
    convex: ClassVar[bool] = True

    @property
    def entrywise(self) -> float:
        return 0.0

    def value(self, w: Tensor) -> Tensor:
        return self.norm_values(row_norms(w)).sum()

    def prox(self, w: Tensor, mu: float) -> Tensor:
        return group_prox(self, w, mu)

    def scale(self, norms: Tensor, mu: float | Tensor) -> Tensor:
        return group_soft_scale(norms, mu)

    def norm_values(self, norms: Tensor) -> Tensor:
        return norms

    def critical_mu(self, size: Tensor) -> Tensor:
        return torch.as_tensor(size)
