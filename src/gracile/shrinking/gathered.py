"""A layer behind a selection of its inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Gathered(nn.Module):
    """Reads some channels of a tensor that others read whole: ``layer(x[:, index])``, for a linear layer ``x[..., index]``.

    Args:
        layer: convolution or linear layer with ``len(index)`` inputs.
        index: the channels it reads.
        dim: the dimension they lie along.
    """

    index: Tensor

    def __init__(self, layer: nn.Module, index: Sequence[int], dim: int) -> None:
        super().__init__()
        self.layer, self.dim = layer, dim
        self.register_buffer("index", torch.as_tensor(index, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.index_select(self.dim, self.index))

    def extra_repr(self) -> str:
        return f"{self.index.numel()} channels along {self.dim}"
