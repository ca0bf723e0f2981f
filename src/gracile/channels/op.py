"""What a rule sees of an operation, and what it can say about it.

Every slice of a tensor along its channel axis carries a *label*, an integer. Slices with one label are one channel:
they are kept or
removed together. A rule gives its output labels: the input's own where a channel passes through, fresh ones where
channels are made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from gracile.core.errors import InputError

Labels = np.ndarray
Count = Callable[[Labels], int]


@dataclass(frozen=True, eq=False)
class Slots:
    """The channels of a tensor.

    Attributes:
        axis: the dimension they lie along.
        labels: one integer a slice, shape (size of that dimension,).
    """

    axis: int
    labels: Labels


@dataclass(frozen=True, eq=False)
class Values:
    """Which channels of a tensor hold one number everywhere (over batch and space), and that number.

    Attributes:
        value: (channels,), meaningless where not `known`.
        known: (channels,) of bool.
    """

    value: Tensor
    known: Tensor


Constants = Callable[[Sequence[Values]], Values | None]


@dataclass(eq=False)
class Traced:
    """A tensor among an operation's arguments."""

    node: fx.Node
    shape: tuple[int, ...]
    slots: Slots | None
    parts: list[Slots] | None = None

    @property
    def channels(self) -> Slots:
        """Its channels.

        Raises:
            InputError: it has none that are known, as the tensor was made inside the model.
        """
        if self.slots is None:
            raise InputError(
                f"The tensor '{self.node.name}' of shape {self.shape} has no channel axis.",
                "Make it a buffer with one dimension larger than 1, or put the operation into a module with a rule.",
            )
        return self.slots


@dataclass(eq=False)
class Layer:
    """A weight that reads channels and makes others: convolution or linear layer.

    Attributes:
        name: the module's path.
        node: the fx node's name.
        weight: the parameter's full name.
        outputs, inputs: the weight's (dimension, labels); a grouped convolution reads nothing, it passes channels on.
        positions: multiply-adds per weight and sample.
        folds: whether a constant input can move into the bias exactly, which zero padding prevents.
        biased: whether the module has a bias.
    """

    name: str
    node: str
    weight: str
    outputs: tuple[int, Labels]
    inputs: tuple[int, Labels] | None
    positions: int
    folds: bool
    biased: bool


@dataclass(eq=False)
class Step:
    """One node of the traced graph with all that its rule said."""

    node: fx.Node
    shape: tuple[int, ...] | None
    slots: Slots | None
    operands: list[fx.Node] = field(default_factory=list)
    tensors: dict[str, dict[int, Labels]] = field(default_factory=dict)
    sizes: dict[str, Labels] = field(default_factory=dict)
    layer: Layer | None = None
    constants: Constants | None = None
    rewrite: Callable[[fx.Node, Count], None] | None = None
    parts: list[Slots] | None = None
    makes_constants: bool = False


class Ledger:
    """Labels handed out so far, which of them are one channel, and which must stay."""

    def __init__(self) -> None:
        self.size = 0
        self.pairs: list[tuple[Labels, Labels]] = []
        self.pins: list[tuple[Labels, str]] = []

    def fresh(self, number: int) -> Labels:
        """`number` labels never used before."""
        labels = np.arange(self.size, self.size + number)
        self.size += number
        return labels


class Op:
    """An operation as its rule sees it.

    Attributes:
        node: the fx node.
        name: the module's path, or the node's name.
        module: the module called, None for functions and methods.
        args, kwargs: as traced, tensors as `Traced`, everything else as its value on the example.
        shape: of the result on an example of two samples; None where the result is not one tensor.
    """

    def __init__(
        self,
        node: fx.Node,
        module: nn.Module | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        shape: tuple[int, ...] | None,
        ledger: Ledger,
    ) -> None:
        self.node, self.module, self.args, self.kwargs, self.shape = node, module, args, dict(kwargs), shape
        self.name = str(node.target) if node.op == "call_module" else node.name
        self.operands: list[Traced] = []
        map_aggregate((args, self.kwargs), self._collect)  # type: ignore[arg-type]
        self.step = Step(node, shape, None, [operand.node for operand in self.operands])
        self._ledger = ledger

    def _collect(self, value: Any) -> Any:
        if isinstance(value, Traced):
            self.operands.append(value)
        return value

    @property
    def x(self) -> Traced:
        """The first tensor among the arguments."""
        return self.operands[0]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument given by position or by name; the tensor itself is position 0."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def fresh(self, number: int) -> Labels:
        """Labels of `number` new channels."""
        return self._ledger.fresh(number)

    def unite(self, first: Labels, second: Labels) -> None:
        """Declare that ``first[i]`` and ``second[i]`` are one channel, for every i."""
        self._ledger.pairs.append((np.asarray(first).ravel(), np.asarray(second).ravel()))

    def pin(self, labels: Labels, reason: str) -> None:
        """Declare that these channels can never be removed, and why (a clause for the plan's table)."""
        self._ledger.pins.append((np.asarray(labels).ravel(), reason))

    def tensor(self, name: str, dims: Mapping[int, Labels]) -> None:
        """Declare that the module's parameter or buffer `name` has these labels along these dimensions; None is
        passed over.

        Raises:
            InputError: the parameter is computed by a parametrization, so that slicing it would not last.
        """
        assert self.module is not None
        if getattr(self.module, name) is None:
            return
        if name not in self.module._parameters and name not in self.module._buffers:
            raise InputError(
                f"'{name}' of the module '{self.name}' is computed by a parametrization or hook.",
                "Make it permanent first, for example with torch.nn.utils.parametrize.remove_parametrizations.",
            )
        self.step.tensors[f"{self.name}.{name}"] = dict(dims)

    def size(self, attribute: str, labels: Labels) -> None:
        """Declare that the module's integer `attribute` is the number of these channels."""
        self.step.sizes[attribute] = np.asarray(labels)

    def reads(
        self,
        *,
        outputs: tuple[int, Labels],
        inputs: tuple[int, Labels] | None,
        positions: int,
        folds: bool,
        weight: str = "weight",
    ) -> None:
        """Declare the weight that makes the `outputs` from the `inputs`; see `Layer`."""
        self.step.layer = Layer(
            self.name, self.node.name, f"{self.name}.{weight}", outputs, inputs, positions, folds,
            getattr(self.module, "bias", None) is not None,
        )  # fmt: skip

    def constants(self, function: Constants, *, makes: bool = False) -> None:
        """Give the function that tells which output channels are constant, from the operands' `Values`; without one,
        none are.

        Args:
            function: from the operands' `Values` to the result's.
            makes: whether there may be constants in the result without any in the operands, as with padded channels.
        """
        self.step.constants = function
        self.step.makes_constants = makes

    def rewrite(self, function: Callable[[fx.Node, Count], None]) -> None:
        """Give the function that corrects numbers of channels written into the model's code.

        It is called with the node of the smaller model's graph and a function from labels to how many of them remain.
        """
        self.step.rewrite = function

    def execute(self, tensors: Sequence[Tensor]) -> Tensor:
        """The operation itself on other tensors in the operands' places."""
        remaining = iter(tensors)
        args, kwargs = map_aggregate(  # type: ignore[misc]
            (self.args, self.kwargs), lambda value: next(remaining) if isinstance(value, Traced) else value
        )
        if self.node.op == "call_method":
            return getattr(args[0], str(self.node.target))(*args[1:], **kwargs)
        function = self.module if self.module is not None else self.node.target
        with torch.no_grad():
            return function(*args, **kwargs)  # type: ignore[operator]

    def refuse(self, cause: str, remedy: str) -> NoReturn:
        """Stop: this use of the operation has no exact treatment."""
        raise InputError(f"{describe(self.node, self.module)}: {cause}", remedy)


def describe(node: fx.Node, module: nn.Module | None) -> str:
    """An operation for a message: what it is, its node, and its source line where fx knows it."""
    if node.op == "call_module":
        text = f"The module '{node.target}' ({type(module).__name__})"
    elif node.op == "call_method":
        text = f"The method '{node.target}' at node '{node.name}'"
    else:
        target = node.target
        text = f"The function '{getattr(target, '__name__', target)}' at node '{node.name}'"
    line = source_line(node.stack_trace)
    return f"{text}, {line}" if line else text


def source_line(trace: str | None) -> str:
    """The innermost ``file:line`` of a node's stack trace, with the statement."""
    lines = [line.strip() for line in (trace or "").splitlines()]
    for index in range(len(lines) - 1, -1, -1):
        if (
            lines[index].startswith("File ")
            and "torch/nn/modules" not in lines[index]
            and "torch/fx" not in lines[index]
        ):
            file, _, rest = lines[index].removeprefix('File "').partition('", line ')
            statement = lines[index + 1] if index + 1 < len(lines) else ""
            return f"{file}:{rest.partition(',')[0]} `{statement}`"
    return ""
