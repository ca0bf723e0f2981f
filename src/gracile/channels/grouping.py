"""How weights form groups: per weight an index tensor, broadcastable to the weight, whose entries name groups.

One representation serves all groupings, also groups that span several layers: two slices with the same number share
their fate.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from gracile.channels.graph import ChannelGraph
from gracile.core.errors import InputError, pick
from gracile.core.prunable import Weight


@dataclass(frozen=True)
class Grouping:
    """Groups over a list of weights.

    Attributes:
        index: per weight a long tensor broadcastable to it, entries in ``[0, groups)``, or -1 for a slice in no group.
        groups: how many groups there are.
        carried: how many weights are in no group and go all the same, with the channel that their filter makes.
    """

    index: list[Tensor]
    groups: int
    carried: int = 0


def _slices(weight: Weight, dims: tuple[int, ...]) -> Tensor:
    """Number the slices along these dimensions: a tensor of the weight's size there and 1 elsewhere."""
    shape = [size if dim in dims else 1 for dim, size in enumerate(weight.tensor.shape)]
    return torch.arange(torch.Size(shape).numel()).view(shape)


def _rows(weight: Weight) -> Tensor:
    if weight.tensor.ndim < 3:
        raise InputError(f"'{weight.name}' has no kernel rows.", "Use grouping='input_channel' or layers='conv'.")
    return _slices(weight, tuple(dim for dim in range(weight.tensor.ndim) if dim != weight.tensor.ndim - 1))


def _blocks(weight: Weight, outputs: int, inputs: int) -> Tensor:
    """Number the tiles of so many outputs by so many inputs, at each kernel position by itself.

    Those at an edge may be smaller.
    """
    shape = weight.tensor.shape
    number = torch.zeros((1,) * len(shape), dtype=torch.long)
    for dim, size in enumerate(shape):
        tile = {weight.output_dim: outputs, weight.input_dim: inputs}.get(dim, 1)
        place = torch.arange(size).div(tile, rounding_mode="floor")
        number = number * (-(-size // tile)) + place.view([-1 if d == dim else 1 for d in range(len(shape))])
    return number


# A grouping within each layer is a function from a weight to its index tensor, and a row here.
WITHIN_LAYER: dict[str, Callable[[Weight], Tensor]] = {
    "input_channel": lambda weight: _slices(weight, (weight.input_dim,)),
    "output_filter": lambda weight: _slices(weight, (weight.output_dim,)),
    "kernel": lambda weight: _slices(weight, (0, 1)),
    "row": _rows,
    "block": lambda weight: _blocks(weight, 1, 4),
}
GROUPINGS = (*WITHIN_LAYER, "coupled")
_TILE = re.compile(r"block:(?:([1-9]\d*)x)?([1-9]\d*)")


def within_layer(name: str) -> Callable[[Weight], Tensor]:
    """A grouping within layers, by its name; ``block:8`` and ``block:4x4`` name the tile (outputs x inputs).

    Raises:
        InputError: no such grouping.
    """
    if name.startswith("block:"):
        tile = _TILE.fullmatch(name)
        if tile is None:
            raise InputError(
                f"The grouping '{name}' names no tile.", "Write block:8 (inputs) or block:4x4 (outputs x inputs)."
            )
        return lambda weight: _blocks(weight, int(tile[1] or 1), int(tile[2]))
    return pick(WITHIN_LAYER, name, "grouping")


def to_vectors(tensor: Tensor, input_dim: int, block: int | None) -> Tensor:
    """Arrange a weight's entries for a constraint: ``(vectors, members)``.

    Args:
        tensor: a weight.
        input_dim: its dimension over input channels or features.
        block: so many consecutive inputs a vector, the last one of each row filled up with zeros; None for one vector, 0 for one of all
            that an output reads.
    """
    if block is None:
        return tensor.reshape(1, -1)
    if block == 0:
        return tensor.movedim(1 - input_dim, 0).flatten(1)
    moved = tensor.movedim(input_dim, -1)
    return pad(moved, (0, -moved.shape[-1] % block)).reshape(-1, block)


def from_vectors(rows: Tensor, tensor: Tensor, input_dim: int, block: int | None) -> Tensor:
    """What `to_vectors` arranged, shaped and laid out like `tensor` again."""
    if block is None:
        return torch.empty_like(tensor).copy_(rows.view(tensor.shape))
    if block == 0:
        moved = tensor.movedim(1 - input_dim, 0)
        return torch.empty_like(tensor).copy_(rows.view(moved.shape).movedim(0, 1 - input_dim))
    moved = tensor.movedim(input_dim, -1)
    filled = rows.view(*moved.shape[:-1], -1)[..., : moved.shape[-1]]
    return torch.empty_like(tensor).copy_(filled.movedim(-1, input_dim))


def within_layers(name: str, weights: list[Weight]) -> Grouping:
    """A grouping that treats each layer by itself.

    Args:
        name: a row of `WITHIN_LAYER`, or ``block`` with its tile.
        weights: the weights to group.

    Raises:
        InputError: no such grouping, or it does not fit a weight.
    """
    number = within_layer(name)
    index, groups = [], 0
    for weight in weights:
        numbers = number(weight)
        index.append(numbers + groups)
        groups += int(numbers.max()) + 1
    return Grouping(index, groups)


def whole_groups(graph: ChannelGraph, weights: list[Weight]) -> tuple[Tensor, list[Tensor]]:
    """Which channels go with slices of these weights alone: zeroing a part of a channel's slices removes nothing.

    Args:
        graph: the network's channel graph.
        weights: those that are acted on.

    Returns:
        ``(groups + 1,)`` of bool, whose last, where the index -1 of a slice in no group leads, is False; and the index of `Grouping`
        over those groups, each on the CPU.
    """
    by_name = graph.group_index()
    names = {weight.name for weight in weights}
    whole = torch.zeros(graph.num_groups + 1, dtype=torch.bool)
    # First the readers that are acted on, then the others, which have the last word.
    for name in sorted(by_name, key=lambda name: name not in names):
        whole[by_name[name].flatten().cpu()] = name in names
    whole[-1] = False
    index = [by_name.get(weight.name, torch.full((1,) * weight.tensor.ndim, -1)).cpu() for weight in weights]
    return whole, [groups.masked_fill(~whole[groups], -1) for groups in index]


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
    whole, index = whole_groups(graph, weights)
    made = {layer.weight: layer.outputs for layer in graph.layers}
    carried = 0
    for weight, groups in zip(weights, index, strict=True):
        if weight.name in made:
            dim, labels = made[weight.name]
            goes = whole[torch.as_tensor(graph.groups_of(labels))]
            alone = (groups < 0) & goes.view([-1 if one == dim else 1 for one in range(weight.tensor.ndim)])
            carried += int(alone.sum()) * (weight.tensor.numel() // alone.numel())
    return Grouping(index, graph.num_groups, carried)
