"""The channel graph: which slices of which weights share their fate, and what would be left without some of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gracile.channels.liveness import Folded, Liveness, analyse, folded
from gracile.channels.records import Layer
from gracile.channels.structure import Structure
from gracile.core.errors import InputError


@dataclass(frozen=True)
class Counts:
    """The size of a network.

    Attributes:
        channels: groups that are there, of `ChannelGraph.num_groups`.
        parameters: numbers in all parameters.
        macs: multiply-adds of convolutions and linear layers for one sample.
    """

    channels: int
    parameters: int
    macs: int


class ChannelGraph(Structure):
    """Made by `trace`: the structure of a model's channels, and what would be left of it without some of them; see `Structure`."""

    def dense(self) -> Counts:
        """The size of the network as it stands."""
        macs = sum(self.parameter(layer.weight).numel() * layer.positions for layer in self.layers)
        return Counts(self.num_groups, sum(parameter.numel() for parameter in self.model.parameters()), macs)

    def count(self, zero: Tensor | None = None) -> Counts:
        """The size of what `gracile.shrink` would leave, without building it.

        Args:
            zero: (num_groups,) of bool: suppose these groups zero, beside the model's own exact zeros.

        Raises:
            InputError: `zero` has another shape or is not boolean.
        """
        return self.sizes(self.liveness(zero))

    def liveness(self, zero: Tensor | None = None) -> Liveness:
        """Which channels must stay; arguments and errors as for `count`."""
        if zero is not None and (zero.dtype != torch.bool or tuple(zero.shape) != (self.num_groups,)):
            raise InputError(
                f"A mask over groups has shape ({self.num_groups},) and is boolean, "
                f"not {tuple(zero.shape)} of {zero.dtype}.",
                "Give one True or False a group.",
            )
        return analyse(self, zero)

    def sizes(self, liveness: Liveness, fold: Folded | None = None) -> Counts:
        """The size of what stays; `fold` is what `folded` says of it, if that is known already."""
        fold = fold or folded(self, liveness)
        parameters, macs = 0, 0
        weights: dict[str, list[Layer]] = {}
        for layer in self.layers:
            weights.setdefault(layer.weight, []).append(layer)
        computed = fold.needed - fold.constant
        dropped = {name for step in self.steps if step.node not in computed for name in step.tensors}
        dropped -= {name for step in self.steps if step.node in computed for name in step.tensors}
        for name, parameter in self.model.named_parameters():
            if name in dropped:
                continue
            shape = list(parameter.shape)
            for dim, labels in self._cuttable.get(name, {}).items():
                shape[dim] = liveness.count(labels)
            parameters += math.prod(shape)
            for layer in weights.get(name, ()):
                macs += math.prod(shape) * layer.positions_left(liveness.count)
                if layer.name in fold.biases and not layer.biased:
                    parameters += liveness.count(layer.outputs[1])
        groups = np.unique(self._group[liveness.classes])
        return Counts(int(np.count_nonzero(groups >= 0)), parameters, macs)
