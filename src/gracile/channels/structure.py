"""What a trace found: labels, layers, groups, and look-ups in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from gracile.channels.recording import Recorder
from gracile.channels.records import Block, Choice, Layer, Record, Step, Var
from gracile.channels.resolving import attributes
from gracile.channels.sizes import Labels
from gracile.core.errors import InputError


class Structure:
    """Classes of channels in a model, and the weights that make and read them.

    A *group* is a channel, or several that only go together, with every slice of every weight that reads it. When all of those are zero
    the channel can be removed and the outputs stay what they are.

    Attributes:
        model: the model traced; its weights are read when counting.
        num_groups: G.
        steps: the nodes of the traced graph in order, with what the rules said.
        layers: weights that make channels from others, in order.
        blocks: heads that may lose what is inside of them.
        readers: those of them that read channels; the others pass groups of them on.
        tensors: parameter or buffer name to labels of each of its dimensions.
        reasons: class to why it must stay.
        attributes: whole numbers that modules keep, with the channels they count; `attribute_nodes`: where the graph holds them.
        choices: comparisons of numbers of channels in the model's code.
        like: a tensor of the type and device that constants are kept in.
        modes: paths of modules whose `training` is an argument somewhere, with the node of the graph that holds it.
        example: (shape, dtype) of one sample of each input.
        names: of inputs given by name, the last ones of `example`.
        missing: operations without a rule, and the lines they are at.
        written: why no forward can be generated for this model, so that sizes written into its code hold their channels; else empty.
        unused: whether the model calls modules that its outputs do not depend on.
        traced_with: the two samples it was traced with, and whether strictly.
    """

    traced_with: tuple[Any, bool]

    def __init__(
        self,
        model: nn.Module,
        recorder: Recorder,
        steps: list[Step],
        labels: np.ndarray,
        pinned: dict[int, str],
        example: list[tuple[tuple[int, ...], torch.dtype]],
        names: list[str],
        unused: bool = False,
    ) -> None:
        self.model, self.steps, self.labels, self.reasons = model, steps, labels, pinned
        self.example, self.names, self.unused = example, names, unused
        self.like: Tensor = next(model.parameters(), torch.zeros(()))
        self.missing, self.written = dict(recorder.missing), recorder.writer.broken
        self.graph = recorder.writer.graph
        self.records: list[Record] = recorder.records
        self.by_node: dict[fx.Node, Step] = {step.node: step for step in steps}
        self.layers: list[Layer] = [layer for step in steps for layer in step.layers]
        self.blocks: list[Block] = [one for step in steps for one in step.blocks] + recorder.ledger.blocks
        size = int(labels.max()) + 1 if len(labels) else 0
        self.pinned = np.zeros(size, bool)
        self.pinned[list(pinned)] = True
        for layer in self.layers:
            if layer.groups is not None and self.pinned[labels[layer.groups[1]]].all():
                layer.inputs = None
        self.readers: list[Layer] = [layer for layer in self.layers if layer.inputs is not None]
        self._widths = np.zeros(size, bool)
        for one in self.blocks:
            if one.width is not None:
                self._widths[labels[one.width]] = True
        self._share_biases()
        self._keep(recorder.dead_ends)
        self.attributes = attributes(recorder.ledger)
        self.choices: list[Choice] = recorder.ledger.choices
        self.attribute_nodes, self.modes = recorder.writer.attributes, recorder.writer.modes
        self.tensors = _tensors(steps)
        self.makes_constants = any(record.makes_constants for record in self.records)
        self._group = self._number_groups(size)
        self.num_groups = int(self._group.max()) + 1 if size else 0
        self._cuttable = {
            name: {dim: one for dim, one in dims.items() if not self.pinned[labels[one]].all()}
            for name, dims in self.tensors.items()
        }

    def _share_biases(self) -> None:
        """A bias that something else reads, or that would be given to a module called twice, cannot take a constant over."""
        params = ({one.param[0] for one in record.inputs if one.param is not None} for record in self.records)
        read, called = Counter(name for names in params for name in names), Counter(layer.name for layer in self.layers)
        for layer in self.layers:
            layer.folds = layer.folds and (called[layer.name] if layer.bias is None else read[layer.bias]) <= 1

    def _keep(self, dead_ends: list[Labels]) -> None:
        """What is computed and not used needs its channels to be there, unless a layer reads them too."""
        read = np.zeros(len(self.pinned), bool)
        for layer in self.readers:
            assert layer.inputs is not None
            read[self.labels[layer.inputs[1]]] = True
        for labels in dead_ends:
            for one in np.unique(self.labels[labels]):
                if not read[one] and not self.pinned[one]:
                    self.pinned[one] = True
                    self.reasons[int(one)] = "nothing reads it, but the model computes it"

    def __repr__(self) -> str:
        return f"ChannelGraph({type(self.model).__name__}, {self.num_groups} groups, {len(self.layers)} layers)"

    def _number_groups(self, size: int) -> np.ndarray:
        """Class to group, in the order the layers read them.

        -1 where the class must stay, where nothing reads it, or where a weight reads it along another dimension than it reads
        others.
        """
        group, first = np.full(size, -1, np.int64), np.arange(size)
        along: dict[str, int] = {}
        barred = np.zeros(size, bool)
        for layer in self.readers:
            assert layer.inputs is not None
            trained = isinstance(self.parameter(layer.weight), nn.Parameter)
            if not trained or along.setdefault(layer.weight, layer.inputs[0]) != layer.inputs[0]:
                barred[self.labels[layer.inputs[1]]] = True
        inside = [(self.labels[one.heads], self.labels[one.members]) for one in self.blocks]
        for heads, members in inside:  # a head that may go is one group, whatever may go of it
            first[members] = heads[:, None]
            barred[heads[(self.pinned | barred)[members].any(1)]] = True
        for heads, members in inside:
            barred[members[(self.pinned | barred)[heads]]] = True
        number = 0
        for layer in self.readers:
            assert layer.inputs is not None
            read = self.labels[layer.inputs[1]]
            found, at = np.unique(first[read[~(self.pinned | barred)[read]]], return_index=True)
            new = found[np.argsort(at)]
            new = new[group[new] < 0]
            group[new] = np.arange(number, number + len(new))
            number += len(new)
        return group[first]

    def groups_of(self, labels: Labels) -> np.ndarray:
        """The group of each slice with these labels, -1 for none."""
        return self._group[self.labels[labels]]

    def chosen(self, layer: Layer, zero: Tensor) -> np.ndarray:
        """Per input slice of a layer, whether its group is among the `zero` ones."""
        assert layer.inputs is not None
        return np.append(zero.cpu().numpy(), False)[self.groups_of(layer.inputs[1])]

    def parameter(self, name: str) -> Tensor:
        """A parameter or buffer of the model by its full name."""
        owner: Any = self.model
        *path, leaf = name.split(".")
        for one in path:
            owner = owner._modules[one]
        return getattr(owner, leaf)

    def held(self) -> set[int]:
        """Identities of the parameters and buffers of all that is called."""
        found: set[int] = set()
        for step in self.steps:
            name = str(step.node.target)
            if step.node.op == "call_module":
                module = self.model.get_submodule(name)
                found.update(id(one) for one in (*module.parameters(), *module.buffers()))
            elif step.node.op == "get_attr":
                found.add(id(self.parameter(name)))
        return found

    def uncalled(self) -> list[str]:
        """Paths of modules with parameters of their own none of which the run read."""
        held = self.held()
        return [
            name
            for name, module in self.model.named_modules()
            if module._parameters
            and all(one is None or id(one) not in held for one in module._parameters.values())
            and any(one is not None for one in module._parameters.values())
        ]

    def counted(self, var: Var) -> bool:
        """Whether no constant can stand for a tensor: of a dimension only the number of what stays is known.

        Of the width of heads, each of which keeps its own; of a first dimension that the batch was merged into.
        """
        merged = var.varies and bool(var.dims) and var.dims[0] is not None
        return merged or any(one is not None and bool(self._widths[self.labels[one]].any()) for one in var.dims)

    def shape_of(self, var: Var) -> list[int]:
        """The shape in which constants of a tensor are kept: 1 where its size is fixed."""
        return [1 if labels is None else len(labels) for labels in var.dims]

    def group_index(self) -> dict[str, Tensor]:
        """For every convolution's and linear layer's weight, the group each of its input slices belongs to.

        Returns:
            Parameter name to an integer tensor that broadcasts to the weight's shape, such as (1, channels, 1, 1): group numbers
            0..num_groups-1, and -1 for slices that read no removable channel (inputs of the network; grouped convolutions of which
            groups go whole, which pass channels on rather than read them).
        """
        index: dict[str, Tensor] = {}
        for layer in self.layers:
            weight = self.parameter(layer.weight)
            if not isinstance(weight, nn.Parameter):
                continue
            shape = [1] * weight.dim()
            if layer.inputs is None:
                groups = np.array([-1])
            else:
                groups = self.groups_of(layer.inputs[1])
                shape[layer.inputs[0]] = len(groups)
            index.setdefault(layer.weight, torch.as_tensor(groups, device=weight.device).reshape(shape))
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


def _tensors(steps: list[Step]) -> dict[str, Mapping[int, Labels]]:
    found: dict[str, Mapping[int, Labels]] = {}
    for step in steps:
        found.update(step.tensors)
    return found
