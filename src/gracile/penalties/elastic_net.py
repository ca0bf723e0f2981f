"""The elastic net: l1 and the squared l2 norm."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from gracile.penalties.base import check, share, soft_threshold


class ElasticNet:
    """``P(w) = l1_ratio sum |w_i| + (1 - l1_ratio)/2 sum w_i^2`` [@zou2005, parametrised as in scikit-learn].

    Args:
        l1_ratio: share of l1, in (0, 1].

    Raises:
        InputError: `l1_ratio` is out of range.
    """

    name: ClassVar[str] = "elastic_net"
    convex: ClassVar[bool] = True

    def __init__(self, l1_ratio: float = 0.5) -> None:
        self.l1_ratio = share(l1_ratio, "The elastic net", "l1_ratio")

    def value(self, w: Tensor) -> Tensor:
        return self.l1_ratio * w.abs().sum() + (1 - self.l1_ratio) / 2 * w.square().sum()

    def prox(self, w: Tensor, mu: float) -> Tensor:
        check(w, mu)
        return self.unchecked_prox(w, mu)

    def unchecked_prox(self, w: Tensor, mu: float) -> Tensor:
        return soft_threshold(w, mu * self.l1_ratio) / (1 + mu * (1 - self.l1_ratio))

    def critical_mu(self, size: Tensor) -> Tensor:
        return size / self.l1_ratio
