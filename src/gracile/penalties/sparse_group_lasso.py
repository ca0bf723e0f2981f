"""Sparse group lasso: groups that vanish, and zeros inside the groups that stay."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from gracile.penalties.base import group_prox, row_norms, share
from gracile.penalties.group_lasso import group_soft_scale


class SparseGroupLasso:
    """``P(w) = l1_ratio |w|_1 + (1 - l1_ratio) sum_g |w_g|_2`` [@simon2013, without their weights by group size].

    Its proximal map is block soft-thresholding after soft-thresholding.

    Args:
        l1_ratio: share of l1, in (0, 1].

    Raises:
        InputError: `l1_ratio` is out of range.
    """

    name: ClassVar[str] = "sparse_group_lasso"
    convex: ClassVar[bool] = True

    def __init__(self, l1_ratio: float = 0.5) -> None:
        self.entrywise = share(l1_ratio, "Sparse group lasso", "l1_ratio")

    def value(self, w: Tensor) -> Tensor:
        return self.entrywise * w.abs().sum() + self.norm_values(row_norms(w)).sum()

    def prox(self, w: Tensor, mu: float) -> Tensor:
        return group_prox(self, w, mu)

    def scale(self, norms: Tensor, mu: float | Tensor) -> Tensor:
        return group_soft_scale(norms, mu * (1 - self.entrywise))

    def norm_values(self, norms: Tensor) -> Tensor:
        return (1 - self.entrywise) * norms

    def critical_mu(self, size: Tensor) -> Tensor:
        # All of it in one entry: soft-thresholding takes mu l1_ratio off, block soft-thresholding the rest of mu.
        return size.clone()
