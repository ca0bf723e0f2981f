"""Builds the smaller network from a dense one and a structure.

The result is a deep copy of the model whose parameters are cut to what stays: same classes, same names, and whole numbers that modules
keep (channels, groups, heads) set to what they are now. Only where the model's own code names numbers of channels (``F.pad`` on channels,
``view`` with a literal size, slices of channels) or a branch became a constant, the result is a `torch.fx.GraphModule`: the same modules
under the same names, with a forward that was generated from the corrected graph.
"""

from __future__ import annotations

import copy
import functools
import operator
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase

from gracile.channels import ChannelGraph
from gracile.channels.elementwise import ACTIVATIONS, FUNCTIONS
from gracile.channels.layers import kept_attributes
from gracile.channels.liveness import JOINS
from gracile.channels.records import Follow, Step
from gracile.channels.sizes import Attribute, Labels, Measured, Size
from gracile.channels.table import canonical
from gracile.channels.tracing import prune
from gracile.channels.writing import assert_same
from gracile.core.errors import InputError
from gracile.core.outputs import tensors_of
from gracile.shrinking.gathered import Gathered
from gracile.shrinking.heads import with_fewer_heads


class Builder:
    """One build.

    Args:
        graph: of the dense model.
        structure: as `plan.structure` gives it.

    Raises:
        InputError: the structure does not fit the model.
    """

    def __init__(self, graph: ChannelGraph, structure: dict[str, Any]) -> None:
        self.graph, self.structure = graph, structure
        self.alive = _alive(graph, structure["kept"])
        constants = set(structure["constants"])
        self.constant = {step.node for step in graph.steps if step.node.name in constants}
        self.gone = {step.node for step in graph.steps if self._is_gone(step)} if not graph.written else set()

    def kept(self, labels: Labels) -> np.ndarray:
        """Per slice, whether it stays."""
        return self.alive[self.graph.labels[labels]]

    def count(self, labels: Labels) -> int:
        """How many of these slices stay."""
        return int(np.count_nonzero(self.kept(labels)))

    def _is_gone(self, step: Step) -> bool:
        return bool(step.vars) and all(
            any(labels is not None and not self.kept(labels).any() for labels in one.dims) for one in step.vars
        )

    @property
    def generates(self) -> bool:
        """Whether the smaller network gets a generated forward."""
        return bool(
            any(self._needs_rewriting(follow) for step in self.graph.steps for follow in step.follows)
            or not all(choice.stays(self._now) for choice in self.graph.choices)
            or self.constant
            or self.gone
            or (self.graph.unused and not self.alive.all() and not self.graph.written)
        )

    def _now(self, leaf: Measured | Attribute, before: int) -> int:
        """What a size measures in the smaller network."""
        labels = leaf.labels if isinstance(leaf, Measured) else self.graph.attributes.get(leaf)
        return before if labels is None else self.count(labels)

    def build(self) -> nn.Module:
        """The smaller network, weights cut but constants not yet filled in."""
        model = self._cut_copy()
        self._set_numbers(model)
        unbiased = {layer.name for layer in self.graph.layers if not layer.biased}
        for name in self.structure["biases"]:
            if name in unbiased:
                layer = model.get_submodule(name)
                weight = layer.weight
                assert isinstance(weight, Tensor)
                layer.bias = nn.Parameter(weight.new_zeros(_outputs(layer)), requires_grad=weight.requires_grad)
        for name, index in self.structure["gathers"].items():
            self._gather(model, name, index)
        return self._regenerate(model) if self.generates else model

    def _cut_copy(self) -> nn.Module:
        """A copy of the model with its tensors cut; what is cut is never copied whole."""
        left_out = self.gone | self.constant
        names = dict.fromkeys(name for step in self.graph.steps if step.node not in left_out for name in step.tensors)
        cuts: dict[int, Tensor] = {}
        for name in names:
            tensor = self.graph.parameter(name)
            cut = self._cut(tensor, self.graph.tensors[name])
            if cut is not tensor:
                cuts[id(tensor)] = cut
        dense = self.graph.model
        model = _copied(dense, dict(cuts))
        for name, tensor in tensors_of(dense):
            if id(tensor) in cuts:  # modules may copy themselves in their own way
                owner, leaf = _owner(model, name)
                if getattr(owner, leaf) is not cuts[id(tensor)]:
                    setattr(owner, leaf, cuts[id(tensor)])
        return model

    def _cut(self, tensor: Tensor, dims: Any) -> Tensor:
        cut = tensor.detach()
        for dim, labels in dims.items():
            kept = self.kept(labels)
            if not kept.all():
                cut = cut.index_select(dim, torch.as_tensor(np.flatnonzero(kept), device=cut.device))
        if cut.shape == tensor.shape:
            return tensor
        if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous():
            cut = cut.contiguous(memory_format=torch.channels_last)  # the layout is the user's choice
        return nn.Parameter(cut, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else cut

    def _set_numbers(self, model: nn.Module) -> None:
        """Whole numbers that modules keep beside their tensors."""
        for attribute, labels in self.graph.attributes.items():
            if not self.kept(labels).all():
                owner = model.get_submodule(attribute.module)
                setattr(owner, attribute.name, self.count(labels))
        for step in self.graph.steps:  # norms without tensors to measure
            module = model.get_submodule(str(step.node.target)) if step.node.op == "call_module" else None
            labels = step.vars[0].dims[1] if step.vars and len(step.vars[0].dims) > 1 else None
            if labels is not None and isinstance(module, _NormBase | nn.GroupNorm) and not module.affine:
                setattr(
                    module, "num_channels" if isinstance(module, nn.GroupNorm) else "num_features", self.count(labels)
                )
        for name, module in list(model.named_modules()):
            for attribute, number in kept_attributes(module).items():
                now = number(module)
                if now >= 0 and now != getattr(module, attribute):
                    setattr(module, attribute, now)
            if isinstance(module, nn.MultiheadAttention) and name:
                fewer = with_fewer_heads(module)
                if fewer is not module:
                    owner, leaf = _owner(model, name)
                    setattr(owner, leaf, fewer)

    def _gather(self, model: nn.Module, name: str, index: list[int]) -> None:
        layer = model.get_submodule(name)
        weight = layer.weight
        assert isinstance(weight, nn.Parameter)
        dim = 0 if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d) else 1
        cut = weight.detach().index_select(dim, torch.as_tensor(index, device=weight.device))
        layer.weight = nn.Parameter(cut, requires_grad=weight.requires_grad)
        setattr(layer, "in_features" if isinstance(layer, nn.Linear) else "in_channels", len(index))
        gathered = Gathered(layer, index, -1 if isinstance(layer, nn.Linear) else 1).to(weight.device)
        owner, leaf = _owner(model, name)
        setattr(owner, leaf, gathered.train(layer.training))

    def _needs_rewriting(self, follow: Follow) -> bool:
        if follow.stands or follow.step.node in self.gone or follow.step.node in self.constant:
            return False
        return any(not self.kept(labels).all() for labels in self._concerned(follow))

    def _concerned(self, follow: Follow) -> Iterator[Labels]:
        """Channels whose number a size is, or is computed from."""
        if isinstance(follow.size, list):
            yield from follow.size
        if follow.labels is not None:
            yield follow.labels
        for leaf in follow.size.leaves() if isinstance(follow.size, Size) else ():
            labels = leaf.labels if isinstance(leaf, Measured) else self.graph.attributes.get(leaf)
            if labels is not None:
                yield labels

    def _regenerate(self, model: nn.Module) -> fx.GraphModule:
        """A module with a generated forward.

        Dropout, stochastic depth and batch-norm follow the network's mode; what is chosen by an ``if self.training`` in the forward
        itself is as in evaluation.
        """
        graph, copies = fx.Graph(), {}
        result = graph.graph_copy(self.graph.graph, copies)
        graph.output(result)
        for step in self.graph.steps:
            if step.node not in self.gone and step.node not in self.constant:
                for follow in step.follows:
                    if self._needs_rewriting(follow):
                        self._rewrite(follow, copies)
        for attribute, node in self.graph.attribute_nodes.items():
            if attribute in self.graph.attributes and node in copies:
                copies[node].args = (self.count(self.graph.attributes[attribute]),)
        self._place_constants(model, graph, copies)
        for module, node in self.graph.modes.items():
            if node in copies and copies[node].users:
                _follow_mode(model, copies[node], module)
        absent = {copies[node] for node in self.gone | self.constant if node in copies}
        for node in [one for one in graph.nodes if one.target is assert_same]:
            if not _ancestors(node).isdisjoint(absent):
                graph.erase_node(node)  # what it measures is not there to be measured
        prune(graph, absent)
        for node in self.gone:
            if any(copies[node] is one for one in graph.nodes):
                raise InputError(
                    f"'{node.name}' has no channel left; '{next(iter(copies[node].users)).name}' cannot do without it.",
                    "Keep one channel of it (keep_last=True in training).",
                )
        graph.lint()
        made = fx.GraphModule(model, graph, class_name=type(model).__name__)
        made.training = model.training
        return made

    def _rewrite(self, follow: Follow, copies: dict[fx.Node, fx.Node]) -> None:
        """Correct a size that does not follow by itself."""
        node = copies[follow.step.node]
        if follow.write is not None:
            follow.write(node, self.count)
        elif follow.place is not None and follow.labels is not None:
            _put(node, follow.place, self.count(follow.labels))

    def _place_constants(self, model: nn.Module, graph: fx.Graph, copies: dict[fx.Node, fx.Node]) -> None:
        """Put buffers in the places of nodes that became constants, and leave out parts without channels."""
        output = next(iter(reversed(graph.nodes)))
        for step in self.graph.steps:
            if step.node in self.gone:
                self._leave_out(step, copies)
            if step.node not in self.constant:
                continue
            users = [node for node in step.node.users if node not in self.constant]
            if not users:
                continue
            assert step.shape is not None
            name = f"constant_{step.node.name}"
            like = next(model.parameters())
            shape = [1 if labels is None else self.count(labels) for labels in step.vars[0].dims]
            model.register_buffer(name, like.new_zeros(shape))
            for user in users:
                place = output if user.op == "output" else copies[user]
                with graph.inserting_before(place):
                    value = graph.get_attr(name)
                    if not self._broadcasts(user):
                        first = next(node for node in graph.nodes if node.op == "placeholder")
                        batch = graph.call_method("size", (first, 0))
                        full = [batch, *step.shape[1:]]
                        for axis, labels in enumerate(step.vars[0].dims):
                            if labels is not None and axis:
                                full[axis] = shape[axis]
                        value = graph.call_method("expand", (value, *full))
                place.replace_input_with(copies[step.node], value)

    def _broadcasts(self, user: fx.Node) -> bool:
        """Whether a user is elementwise and has another operand that gives the result its full shape."""
        if user.op != "call_function" or canonical(user.target) not in (*ACTIVATIONS, *FUNCTIONS):
            return False
        if user.target in (operator.iadd, operator.isub, operator.imul, operator.itruediv):
            return False  # in-place results have the first operand's shape
        own = self.graph.by_node[user]
        return any(
            self.graph.by_node[node].shape == own.shape and node not in self.constant and node.op != "get_attr"
            for node in own.operands
        )

    def _leave_out(self, step: Step, copies: dict[fx.Node, fx.Node]) -> None:
        for user in step.node.users:
            if user in self.gone or user in self.constant:
                continue
            if user.target not in JOINS:
                continue
            node = copies[user]
            joined = node.args[0] if node.args else node.kwargs["tensors"]
            assert isinstance(joined, list | tuple)
            rest = [one for one in joined if one is not copies[step.node]]
            if node.args:
                node.args = (rest, *node.args[1:])
            else:
                node.kwargs = {**node.kwargs, "tensors": rest}


# What a copy shares.
SHARED = {type(None), bool, int, float, str}
EMPTY = {dict, OrderedDict, set}
# What modules keep their own tensors and modules in.
HOLDERS = {"_parameters", "_buffers", "_modules"}


def _copied(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy. Most of what modules keep are numbers and empty dictionaries (of hooks), which `copy` takes long for.

    Args:
        model: modules that say themselves how they are copied are left to `copy`.
        memo: what stands for what, by the id of it; changed.
    """
    plain = [module for module in model.modules() if _copied_plainly(type(module))]
    for module in plain:
        memo[id(module)] = object.__new__(type(module))
    for module in plain:
        kept = vars(memo[id(module)])
        for name, value in vars(module).items():
            kind = type(value)
            if kind in SHARED:
                kept[name] = value
            elif kind in EMPTY and not value:
                kept[name] = memo.setdefault(id(value), kind())
            elif kind is tuple and all(type(one) in SHARED for one in value):
                kept[name] = value
            elif name in HOLDERS and kind is dict and id(value) not in memo:
                made = memo[id(value)] = {}
                for leaf, one in value.items():
                    made[leaf] = memo[id(one)] if id(one) in memo else copy.deepcopy(one, memo)
                kept[name] = made
            else:
                kept[name] = copy.deepcopy(value, memo)
    return copy.deepcopy(model, memo)


@functools.cache
def _copied_plainly(kind: type) -> bool:
    own = {name for parent in kind.__mro__ if parent not in (nn.Module, object) for name in vars(parent)}
    own -= {"__setstate__"} if kind.__module__.startswith("torch.nn.modules") else set()  # of files of old versions
    return own.isdisjoint(
        ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__slots__", "__new__")
    )


def _ancestors(node: fx.Node) -> set[fx.Node]:
    """Nodes whose sizes a comparison of sizes was computed from."""
    found, waiting = set(), list(node.all_input_nodes)
    while waiting:
        one = waiting.pop()
        found.add(one)
        if not (one.op == "call_method" and one.target == "size"):
            waiting.extend(one.all_input_nodes)
        else:
            found.update(one.all_input_nodes)
    return found


def _put(node: fx.Node, place: tuple[Any, ...], value: int) -> None:
    """Write a number among a node's arguments."""
    kind, *path = place
    if kind == "args":
        node.args = _replaced(node.args, path, value)
    else:
        node.kwargs = {**node.kwargs, path[0]: _replaced(node.kwargs[path[0]], path[1:], value)}


def _replaced(given: Any, path: list[Any], value: int) -> Any:
    if not path:
        return value
    made = list(given)
    made[path[0]] = _replaced(made[path[0]], path[1:], value)
    return made if isinstance(given, list) else tuple(made)


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def _outputs(layer: nn.Module) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels  # type: ignore[return-value]


def _alive(graph: ChannelGraph, kept: dict[str, dict[str, list[int]]]) -> np.ndarray:
    """Per class, whether it stays: all but those with a slice that is not kept."""
    alive = np.ones(len(graph.pinned), bool)
    for name, dims in kept.items():
        for dim, indices in dims.items():
            labels = graph.tensors.get(name, {}).get(int(dim))
            if labels is None or (indices and max(indices) >= len(labels)):
                raise InputError(
                    f"Channels of '{name}' were removed along dimension {dim}, which this model does not have.",
                    "Build the model exactly as it was before it was shrunk.",
                )
            removed = np.ones(len(labels), bool)
            removed[indices] = False
            alive[graph.labels[labels[removed]]] = False
    for one in graph.blocks:
        members = alive[graph.labels[one.members]]
        alive[graph.labels[one.heads]] = members.any(1)
        if one.width is not None:
            alive[graph.labels[one.width]] = np.arange(len(one.width)) < members.sum(1).max(initial=0)
    return alive


def _follow_mode(model: nn.Module, node: fx.Node, module: str) -> None:
    """Let a flag be a module's `training`, when the forward runs."""
    if not module:  # a graph cannot name the network itself, but what is in it is in the same mode
        module = "training_mode"
        model.add_module(module, nn.Identity().train(model.training))
    with node.graph.inserting_before(node):
        owner = node.graph.create_node("get_attr", module)
    node.target, node.args = getattr, (owner, "training")
