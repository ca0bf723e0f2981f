"""N:M sparsity: of every M consecutive inputs at most N are connected."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from gracile.core.errors import InputError
from gracile.penalties.base import project
from gracile.penalties.top_k import keep_largest


class NM:
    """0 where each block has at most n non-zeros, infinity elsewhere.

    A block is m consecutive input channels or features of one output at one kernel position, the last one shorter where m does
    not divide their number [@zhou2021; 2:4 is what NVIDIA's sparse tensor cores read].

    Args:
        n: how many entries of a block may stay, in [1, m].
        m: a block's length.

    Raises:
        InputError: not ``1 <= n <= m``.
    """

    name: ClassVar[str] = "n_m"

    def __init__(self, n: int = 2, m: int = 4) -> None:
        if not 1 <= n <= m:
            raise InputError(f"{n}:{m} sparsity cannot be: 1 <= n <= m.", "Hardware reads n=2, m=4.")
        self.n, self.block = n, m

    def value(self, w: Tensor) -> Tensor:
        return torch.where((w.count_nonzero(1) > self.n).any(), torch.inf, 0.0).to(w)

    def prox(self, w: Tensor, mu: float) -> Tensor:
        return project(self, w, mu)

    def unchecked_prox(self, w: Tensor, mu: float) -> Tensor:
        return keep_largest(w, self.n) if mu > 0 else w.clone()
