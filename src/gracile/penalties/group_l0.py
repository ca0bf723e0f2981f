"""Group l0: the count of non-zero groups."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from gracile.penalties.base import group_prox, row_norms


def group_hard_scale(norms: Tensor, mu: float | Tensor) -> Tensor:
    """1 where the group's l2 norm exceeds ``sqrt(2 mu)``, else 0."""
    kept = torch.ones_like(norms).masked_fill(norms <= (2 * mu) ** 0.5, 0.0)
    return torch.where(norms.isnan(), norms, kept)


class GroupL0:
    """``P(w) = #{g: w_g != 0}`` [@dinh2020, section 4.1; what the authors' released code uses]."""

    name: ClassVar[str] = "group_l0"
    convex: ClassVar[bool] = False

    @property
    def entrywise(self) -> float:
        return 0.0

    def value(self, w: Tensor) -> Tensor:
        return self.norm_values(row_norms(w)).sum()

    def prox(self, w: Tensor, mu: float) -> Tensor:
        return group_prox(self, w, mu)

    def scale(self, norms: Tensor, mu: float | Tensor) -> Tensor:
        return group_hard_scale(norms, mu)

    def norm_values(self, norms: Tensor) -> Tensor:
        return (norms != 0).to(norms.dtype)

    def critical_mu(self, size: Tensor) -> Tensor:
        return size.square() / 2
