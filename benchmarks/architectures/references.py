"""The larger network that a smaller one should equal, found from where each weight of the smaller one came from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def larger(dense: nn.Module, lean: nn.Module) -> nn.Module:
    """Put zeros in place of all that was removed, which is what removal of channels claims to leave.

    Args:
        dense: all entries of a parameter differ from each other; changed.
        lean: its parameters are parts of those of the same names, in any order of slices; what it has no more was removed.

    Raises:
        ValueError: a parameter holds numbers that the dense one does not.
    """
    kept = dict(lean.named_parameters())
    with torch.no_grad():
        for name, weight in dense.named_parameters():
            part = kept.get(name)
            if part is None:
                weight.zero_()
                continue
            if part.shape == weight.shape and torch.equal(part, weight):
                continue
            if part.dim() != weight.dim():
                raise ValueError(f"'{name}' has another number of dimensions.")
            places = torch.meshgrid(*origins(weight, part), indexing="ij")
            if not torch.equal(weight[places], part):
                raise ValueError(f"'{name}' holds numbers that are not the larger network's.")
            whole = torch.zeros_like(weight)
            whole[places] = part
            weight.copy_(whole)
    return dense


def origins(whole: Tensor, part: Tensor) -> Sequence[Tensor]:
    """For each dimension of `part`, the indices in `whole` that its slices came from.

    Raises:
        ValueError: some number is not there.
    """
    values, order = whole.flatten().sort()
    found = []
    for axis in range(part.dim()):
        line = part[tuple(slice(None) if one == axis else 0 for one in range(part.dim()))].contiguous()
        at = torch.searchsorted(values, line).clamp(max=len(values) - 1)
        if not torch.equal(values[at], line):
            raise ValueError("Some number is not the larger network's.")
        found.append(torch.unravel_index(order[at], whole.shape)[axis])
    return found
