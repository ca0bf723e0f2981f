"""Input normalisation as part of the network, so that attacks and quantisation see images in [0, 1]."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError


class Normalize(nn.Module):
    """``(x - mean) / std``, per channel of (n, c, h, w) or per feature of (n, f).

    Args:
        mean: one number per channel or feature, or a single one for all; a buffer, saved with the model.
        std: likewise; of a constant feature, whose deviation is 0, the mean alone is taken off.

    Raises:
        InputError: lengths differ, or a standard deviation is negative or not a number.
    """

    channel_rule = "normalize"  # tells the channel graph, without knowing it, what this does to channels

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] | Tensor | float, std: Sequence[float] | Tensor | float) -> None:
        super().__init__()
        dtype = torch.get_default_dtype()
        means, stds = (torch.as_tensor(value, dtype=dtype).flatten().clone() for value in (mean, std))
        if means.numel() != stds.numel():
            raise InputError(
                f"Normalize was given {means.numel()} means and {stds.numel()} standard deviations.",
                "Give one of each per channel or feature.",
            )
        if not bool((stds >= 0).all()):
            raise InputError(
                "Normalize was given a standard deviation that is negative or not a number.",
                "Give those of the training data, as Dataset.statistics does.",
            )
        stds.masked_fill_(stds == 0, 1.0)
        self.register_buffer("mean", means)
        self.register_buffer("std", stds)

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1,) + (1,) * (x.dim() - 2)
        return (x - self.mean.view(shape)) / self.std.view(shape)

    def extra_repr(self) -> str:
        return f"{self.mean.numel()} channels"


def normalized(
    model: nn.Module, mean: Sequence[float] | Tensor | float, std: Sequence[float] | Tensor | float
) -> nn.Sequential:
    """`model` behind a `Normalize`, as a sequence of the named children ``normalize`` and ``network``."""
    return nn.Sequential(OrderedDict(normalize=Normalize(mean, std), network=model))


class UnitNorm(nn.Module):
    """``x / |x|``, the l2 norm over all but the first dimension; 0 stays 0."""

    channel_rule = "elementwise"

    def forward(self, x: Tensor) -> Tensor:
        size = x.flatten(1).norm(dim=1).clamp_min(torch.finfo(x.dtype).tiny)
        return x / size.view(-1, *(1,) * (x.dim() - 1))
