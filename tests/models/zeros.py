"""Ways of putting exact zeros into a model."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from gracile.channels import ChannelGraph


def zero_groups(model: nn.Module, graph: ChannelGraph, zero: Tensor) -> None:
    """Zero every input slice of the chosen groups, as grouped training does."""
    chosen = torch.cat([zero, torch.tensor([False])])
    with torch.no_grad():
        for name, index in graph.group_index().items():
            weight = model.get_parameter(name)
            weight[chosen[index].expand_as(weight)] = 0


def zero_inputs_per_layer(model: nn.Module, share: float, seed: int) -> None:
    """Zero a share of every layer's input slices by itself, all but one at most, as per-layer grouping does."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in list(model.modules()):
            if isinstance(module, nn.Conv2d | nn.Conv1d | nn.Linear) and module.weight.shape[1] > 3:
                number = module.weight.shape[1]
                order = torch.randperm(number, generator=source)[: min(int(share * number), number - 1)]
                module.weight[:, order] = 0


def zero_filters(model: nn.Module, share: float, seed: int) -> None:
    """Zero a share of every layer's output filters, biases left as they are: those channels become constants."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in list(model.modules()):
            if isinstance(module, nn.Conv2d | nn.Conv1d | nn.Linear) and module.weight.shape[0] > 3:
                module.weight[torch.rand(len(module.weight), generator=source) < share] = 0


def zero_inside_heads(model: nn.Module, graph: ChannelGraph, each: int, seed: int) -> None:
    """Zero so many pairs of each head, on the side of the query or of the key, and so many channels of its values where they are read."""
    draw = random.Random(seed)
    with torch.no_grad():
        for block in graph.blocks:
            for row in graph.labels[block.members]:
                for one in draw.sample(row.tolist(), min(each, len(row))):
                    if block.paired is None:
                        _zero(model, graph, one, reads=True)
                    else:
                        _zero(model, graph, one, reads=False, draw=draw)


def _zero(model: nn.Module, graph: ChannelGraph, one: int, *, reads: bool, draw: random.Random | None = None) -> None:
    """The columns of a class, or the rows of one layer that makes it, with their biases."""
    sides = [
        (layer, *side)
        for layer in graph.readers
        for side in ([layer.inputs] if reads else [layer.outputs])
        if side is not None and bool((graph.labels[side[1]] == one).any())
    ]
    if not reads:
        assert draw is not None
        sides = [draw.choice(sides)]
    for layer, dim, labels in sides:
        index = torch.as_tensor(graph.labels[labels] == one).nonzero().flatten()
        if not reads and len(sides) == 1 and draw is not None and len(index) > 1 and dim == 0:
            index = index[: len(index) // 2]  # queries and keys made by one layer
        graph.parameter(layer.weight).index_fill_(dim, index, 0)
        if not reads and layer.bias is not None:
            graph.parameter(layer.bias).index_fill_(0, index, 0)
