"""The graph from which a forward can be generated: a node for each call of a run, with sizes computed where the model computed them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from gracile.channels.calls import OPERATORS, Shape, leaves, methods, user_line
from gracile.channels.records import Step, Var
from gracile.channels.sizes import Attribute, Measured, Mode, Size, plain
from gracile.core.errors import InputError

# What a generated forward can name as it is.
PLAIN = (
    type(None), type(Ellipsis), int, float, str, bool, complex, torch.dtype, torch.device, torch.memory_format, torch.layout, torch.Size,
)  # fmt: skip


class Writer:
    """Nodes of modules, functions and methods, in the order of the run.

    Attributes:
        graph: a forward can be generated from it where `broken` is empty.
        steps: per node what the rules said.
        broken: why no forward can be generated; empty where one can.
        attributes: whole numbers that modules keep, with the node that holds each.
        modes: paths of modules whose `training` is an argument, with the node that holds it.
        var: what is known of a tensor.
    """

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.steps: dict[fx.Node, Step] = {}
        self.broken = ""
        self.attributes: dict[Attribute, fx.Node] = {}
        self.modes: dict[str, fx.Node] = {}
        self._measured: dict[tuple[fx.Node, int], fx.Node] = {}
        self.var: Callable[[Tensor], Var]

    def placeholder(self, name: str) -> fx.Node:
        """An input."""
        return self.graph.placeholder(name)

    def parameter(self, name: str, var: Var) -> tuple[fx.Node, Step]:
        """A parameter or buffer."""
        node = self.graph.create_node("get_attr", name)
        step = self.steps[node] = Step(node, var.shape, [], [var])
        return node, step

    def output(self, result: Any, outputs: list[Var]) -> None:
        """What the network gives back."""
        try:
            node = self.graph.output(self._arguments(result))
        except _CannotWrite:
            self.broken = self.broken or f"the output is a {type(result).__name__}"
            node = self.graph.output(tuple(var.node for var in outputs if var.node is not None))
        self.steps[node] = Step(node, None, list(node.all_input_nodes))

    def module(self, path: str, args: Any, kwargs: Any) -> Step:
        """A module that is called whole."""
        return self._step(self._emit("call_module", path, args, kwargs), args, kwargs)

    def call(self, name: str, function: Any, args: Any, kwargs: Any) -> Step:
        """A function or a tensor's method."""
        return self._step(self._emit_call(name, function, args, kwargs), args, kwargs)

    def part(self, whole: fx.Node, path: tuple[Any, ...], shape: tuple[int, ...], var: Var) -> fx.Node:
        """One of several results."""
        node = whole
        for index in path:
            node = self.graph.call_function(operator.getitem, (node, index))
            self.steps[node] = Step(node, shape, [whole], [var])
        return node

    def _step(self, node: fx.Node, args: Any, kwargs: Any) -> Step:
        node.meta["where"] = user_line()
        step = self.steps[node] = Step(node, None, self._nodes(args, kwargs))
        return step

    def _nodes(self, *values: Any) -> list[fx.Node]:
        found = [self.var(one).node for one in leaves(values) if isinstance(one, Tensor)]
        return [node for node in found if node is not None]

    def _emit(self, kind: str, target: Any, args: Any, kwargs: Any) -> fx.Node:
        try:
            given, named = self._arguments(tuple(args)), self._arguments(dict(kwargs))
        except _CannotWrite as error:
            self.broken = self.broken or str(error)
            given, named = tuple(self._nodes(args, kwargs)), {}
        node = self.graph.create_node(kind, target)
        node.args, node.kwargs = given, named  # given at once, each is looked through for symbols first
        return node

    def _emit_call(self, name: str, function: Any, args: Any, kwargs: Any) -> fx.Node:
        if name == "__get__":
            return self._emit("call_function", getattr, (args[0], function.__self__.__name__), {})
        method = methods().get(function) if args and isinstance(args[0], Tensor) else None
        if method is None:
            return self._emit("call_function", function, args, kwargs)
        if method in OPERATORS and not kwargs and len(args) <= 2:
            return self._emit("call_function", OPERATORS[method], args, kwargs)
        if method == "__setitem__":
            return self._emit("call_function", operator.setitem, args, kwargs)
        return self._emit("call_method", method, args, kwargs)

    def _arguments(self, value: Any) -> Any:
        if type(value) in PLAIN:
            return value
        if isinstance(value, Tensor):
            node = self.var(value).node
            if node is None:
                raise _CannotWrite(f"a tensor that the model keeps beside its buffers is used at {user_line()}")
            return node
        if isinstance(value, Size):
            return self._size(value)
        if type(value) is Mode:
            return self._mode(value)
        if type(value) in (tuple, list, Shape):
            made = [self._arguments(one) for one in value]
            return made if type(value) is list else tuple(made)
        if type(value) is dict:
            return {name: self._arguments(one) for name, one in value.items()}
        if isinstance(value, slice):
            return slice(*(self._arguments(one) for one in (value.start, value.stop, value.step)))
        if isinstance(value, PLAIN):
            return value
        raise _CannotWrite(f"an argument of type {type(value).__name__} at {user_line()}")

    def _mode(self, mode: Mode) -> fx.Node:
        if mode.module not in self.modes:
            self.modes[mode.module] = node = self.graph.call_function(bool, (False,))
            self.steps[node] = Step(node, None)
        return self.modes[mode.module]

    def compared(self, size: Size) -> None:
        """A comparison of sizes of the batch or the image, which a generated forward makes again; see `assert_same`."""
        made = self._size(size)
        if isinstance(made, fx.Node):
            node = self.graph.call_function(assert_same, (made, bool(plain(size)), user_line()))
            self.steps[node] = Step(node, None, [made])

    def _size(self, size: Size) -> Any:
        """A size as the model came by it: measured, kept by a module, or computed."""
        origin = size.origin
        if isinstance(origin, Attribute):
            if origin not in self.attributes:
                self.attributes[origin] = node = self.graph.call_function(int, (plain(size),))
                self.steps[node] = Step(node, None)
            return self.attributes[origin]
        if isinstance(origin, Measured):
            if origin.node is None:
                return plain(size)
            key = (origin.node, origin.dim)
            if key not in self._measured:
                self._measured[key] = node = self.graph.call_method("size", key)
                self.steps[node] = Step(node, None, [origin.node])
            return self._measured[key]
        args = tuple(self._size(one) if isinstance(one, Size) else one for one in origin[1])
        nodes = [one for one in args if isinstance(one, fx.Node)]
        if not nodes:
            return plain(size)
        node = self.graph.call_function(origin[0], args)
        self.steps[node] = Step(node, None, nodes)
        return node


def assert_same(outcome: bool, before: bool, where: str) -> None:
    """Stand in a generated forward for a branch on sizes, of which it holds the side that was recorded.

    Args:
        outcome: of the comparison now.
        before: as it was recorded.
        where: the line of the model's code.

    Raises:
        InputError: they differ.
    """
    if outcome != before:
        raise InputError(
            f"The sizes compared at {where} compare otherwise than for the example this forward was generated from.",
            "Shrink with an example of this size, or pass inputs of the example's.",
        )


class _CannotWrite(Exception):
    """A call that cannot be written into a generated forward."""
