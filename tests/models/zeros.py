"""Ways of putting exact zeros into a model."""

from __future__ import annotations

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
