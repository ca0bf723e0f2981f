"""The channel graph: which slices of which weights share their fate, and what would be left without some of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn

from gracile.channels.liveness import Liveness, analyse, folded
from gracile.channels.op import Labels, Layer, Step, Values
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


class ChannelGraph:
    """Made by `trace`.

    A *group* is a channel, or several that only go together, with every slice of every weight that reads it. When all
    of
    those are zero the channel can be removed and the outputs stay what they are.

    Attributes:
        model: the model traced; its weights are read when counting.
        num_groups: G.
        steps: the nodes in order, with what their rules said.
        layers: convolutions and linear layers in order.
        example: (shape, dtype) of one sample of each input.
        unused: whether the model calls modules that its outputs do not depend on.
    """

    def __init__(
        self,
        model: nn.Module,
        steps: list[Step],
        labels: np.ndarray,
        pinned: dict[int, str],
        example: list[tuple[tuple[int, ...], torch.dtype]],
        unused: bool = False,
    ) -> None:
        self.unused = unused
        self.model, self.steps, self.labels, self.reasons, self.example = model, steps, labels, pinned, example
        self.layers: list[Layer] = [step.layer for step in steps if step.layer is not None]
        self.readers: list[Layer] = [layer for layer in self.layers if layer.inputs is not None]
        self.source = {step.node.name: step.operands[0].name for step in steps if step.layer is not None}
        self.by_node: dict[fx.Node, Step] = {step.node: step for step in steps}
        size = int(labels.max()) + 1 if len(labels) else 0
        self.pinned = np.zeros(size, bool)
        self.pinned[list(pinned)] = True
        self.makes_constants = any(step.makes_constants for step in steps)
        self._group = self._number_groups(size)
        self.num_groups = int(self._group.max()) + 1 if size else 0

    def __repr__(self) -> str:
        return f"ChannelGraph({type(self.model).__name__}, {self.num_groups} groups, {len(self.layers)} layers)"

    def _number_groups(self, size: int) -> np.ndarray:
        """Class to group, in the order the layers read them; -1 where the class must stay or nothing reads it."""
        group = np.full(size, -1, np.int64)
        number = 0
        for layer in self.readers:
            assert layer.inputs is not None
            for one in self.labels[layer.inputs[1]]:
                if group[one] < 0 and not self.pinned[one]:
                    group[one] = number
                    number += 1
        return group

    def groups_of(self, labels: Labels) -> np.ndarray:
        """The group of each slice with these labels, -1 for none."""
        return self._group[self.labels[labels]]

    def chosen(self, layer: Layer, zero: Tensor) -> np.ndarray:
        """Per input slice of a layer, whether its group is among the `zero` ones."""
        assert layer.inputs is not None
        return np.append(zero.cpu().numpy(), False)[self.groups_of(layer.inputs[1])]

    def parameter(self, name: str) -> Tensor:
        """A parameter of the model by its full name."""
        return self.model.get_parameter(name)

    def unknown(self, node: fx.Node) -> Values:
        """No constants at a node."""
        slots = self.by_node[node].slots
        size = len(slots.labels) if slots is not None else 1
        like = next(self.model.parameters(), torch.zeros(()))
        return Values(like.new_zeros(size), torch.zeros(size, dtype=torch.bool, device=like.device))

    def group_index(self) -> dict[str, Tensor]:
        """For every convolution's and linear layer's weight, the group each of its input slices belongs to.

        Returns:
            Parameter name to an integer tensor that broadcasts to the weight's shape, such as (1, channels, 1, 1):
            group numbers
            0..num_groups-1, and -1 for slices that read no removable channel (inputs of the network; grouped
            convolutions, which
            pass channels on rather than read them).
        """
        index = {}
        for layer in self.layers:
            weight = self.parameter(layer.weight)
            shape = [1] * weight.dim()
            if layer.inputs is None:
                groups = np.array([-1])
            else:
                groups = self.groups_of(layer.inputs[1])
                shape[layer.inputs[0]] = len(groups)
            index[layer.weight] = torch.as_tensor(groups, device=weight.device).reshape(shape)
        return index

    def members(self, group: int) -> dict[str, list[int]]:
        """The input slices of a group: weight name to indices along its input dimension.

        Raises:
            InputError: no such group.
        """
        if not 0 <= group < self.num_groups:
            raise InputError(f"There is no group {group}.", f"Groups are numbered 0 to {self.num_groups - 1}.")
        found = {}
        for layer in self.readers:
            assert layer.inputs is not None
            slices = np.flatnonzero(self.groups_of(layer.inputs[1]) == group)
            if len(slices):
                found[layer.weight] = slices.tolist()
        return found

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

    def sizes(self, liveness: Liveness) -> Counts:
        """The size of what stays."""
        fold = folded(self, liveness)
        parameters, macs = 0, 0
        weights = {layer.weight: layer for layer in self.layers}
        dims = {name: dims for step in self.steps for name, dims in step.tensors.items()}
        computed = fold.needed - fold.constant
        dropped = {name for step in self.steps if step.node not in computed for name in step.tensors}
        for name, parameter in self.model.named_parameters():
            if name in dropped:
                continue
            shape = list(parameter.shape)
            for dim, labels in dims.get(name, {}).items():
                shape[dim] = liveness.count(labels)
            parameters += math.prod(shape)
            if name in weights:
                macs += math.prod(shape) * weights[name].positions
                if weights[name].name in fold.biases and not weights[name].biased:
                    parameters += liveness.count(weights[name].outputs[1])
        groups = np.unique(self._group[liveness.classes])
        return Counts(int(np.count_nonzero(groups >= 0)), parameters, macs)
