"""How weights form groups: per weight an index tensor, broadcastable to the weight, whose entries name groups.

One representation serves all groupings, also groups that span several layers: two slices with the same number share
their fate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError, pick
from gracile.core.layers import Weight


@dataclass(frozen=True)
class Grouping:
    """Groups over a list of weights.

    Attributes:
        index: per weight a long tensor broadcastable to it, entries in ``[0, groups)``, or -1 for a slice in no group.
        groups: how many groups there are.
    """

    index: list[Tensor]
    groups: int


def _slices(weight: Weight, dims: tuple[int, ...]) -> Tensor:
    """Number the slices along these dimensions: a tensor of the weight's size there and 1 elsewhere."""
    shape = [size if dim in dims else 1 for dim, size in enumerate(weight.tensor.shape)]
    return torch.arange(torch.Size(shape).numel()).view(shape)


def _rows(weight: Weight) -> Tensor:
    if weight.tensor.ndim < 3:
        raise InputError(f"'{weight.name}' has no kernel rows.", "Use grouping='input_channel' or layers='conv'.")
    return _slices(weight, tuple(dim for dim in range(weight.tensor.ndim) if dim != weight.tensor.ndim - 1))


# A grouping within each layer is a function from a weight to its index tensor, and a row here.
WITHIN_LAYER: dict[str, Callable[[Weight], Tensor]] = {
    "input_channel": lambda weight: _slices(weight, (weight.input_dim,)),
    "output_filter": lambda weight: _slices(weight, (weight.output_dim,)),
    "kernel": lambda weight: _slices(weight, (0, 1)),
    "row": _rows,
}
GROUPINGS = (*WITHIN_LAYER, "coupled")


def within_layers(name: str, weights: list[Weight]) -> Grouping:
    """A grouping that treats each layer by itself.

    Args:
        name: a row of `WITHIN_LAYER`.
        weights: the weights to group.

    Raises:
        InputError: no such grouping, or it does not fit a weight.
    """
    rule = pick(WITHIN_LAYER, name, "grouping")
    index, groups = [], 0
    for weight in weights:
        numbers = rule(weight)
        index.append(numbers + groups)
        groups += numbers.numel()
    return Grouping(index, groups)


def coupled(model: nn.Module, example: Tensor, weights: list[Weight]) -> Grouping:
    """Group a channel with all slices that must vanish for it to be removable, across layers.

    Args:
        model: traced by `gracile.channels`.
        example: one input batch.
        weights: the weights to group; a slice of a weight that is not among them keeps its channel out.

    Raises:
        InputError: the model cannot be traced; the message says where and what still works.
    """
    from gracile.channels.tracing import trace

    graph = trace(model, example)
    by_name = graph.group_index()
    index = [by_name.get(weight.name, torch.full((1,) * weight.tensor.ndim, -1)) for weight in weights]
    return Grouping(index, graph.num_groups)
