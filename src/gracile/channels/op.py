"""What a rule sees of an operation, and what it can say about it.

Every slice of a tensor along each of its dimensions may carry a *label*, an integer. Slices with one label are one channel: they are
kept or removed together, in activations and in parameters alike. A rule gives its output's labels: the input's own where a channel
passes through. A dimension without labels has a fixed size: the batch, positions, the network's inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from gracile.channels.sizes import Attribute, Labels, Size
from gracile.core.errors import InputError

Count = Callable[[Labels], int]
Place: TypeAlias = tuple[Any, ...]


class Dims(tuple[Labels | None, ...]):
    """The labels of each dimension of a tensor, None where its size is fixed."""


@dataclass(frozen=True, eq=False)
class Slots:
    """The channels of a tensor that has them along one dimension only.

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
        value: shaped as the tensor, with 1 for every dimension without labels; meaningless where not `known`.
        known: of bool, shaped alike.
    """

    value: Tensor
    known: Tensor

    def along(self, size: int) -> tuple[Tensor, Tensor] | None:
        """Value and known as vectors of so many channels; None where there is more than one dimension of them."""
        if self.known.numel() == 1 != size:
            return self.value.reshape(1).expand(size), self.known.reshape(1).expand(size)
        return (self.value.reshape(-1), self.known.reshape(-1)) if self.known.numel() == size else None


Constants = Callable[[Sequence[Values]], Values | list[Values] | None]


@dataclass(eq=False)
class Var:
    """A tensor as it was when the model ran.

    Attributes:
        node: the fx node it came from; None inside a module that is called whole.
        shape: on an example of two samples.
        dims: labels of each dimension.
        varies: whether it depends on the network's inputs.
        param: where it is a parameter or buffer: its full name, and for each of its dimensions that of the parameter.
        record: of the operation that made it.
        changed: whether an operation in place changed it, or memory it shares, later on.
        floating: whether its entries depend on floating-point inputs.
        boolean: whether its entries are true or false.
        holds: channels that must stay if it is used, and why.
        superseded: whether an operation in place put another in its stead.
    """

    node: fx.Node | None
    shape: tuple[int, ...]
    dims: Dims
    varies: bool = False
    param: tuple[str, tuple[int, ...]] | None = None
    record: Record | None = None
    changed: bool = False
    floating: bool = True
    boolean: bool = False
    holds: tuple[Labels, str] | None = None
    superseded: bool = False

    @property
    def slots(self) -> Slots | None:
        """Its channels, where one dimension has them."""
        labelled = [axis for axis, labels in enumerate(self.dims) if labels is not None]
        if len(labelled) > 1:
            labelled = [axis for axis in labelled if self.shape[axis] > 1]
        if len(labelled) != 1:
            return None
        return Slots(labelled[0], self.dims[labelled[0]])  # type: ignore[arg-type]

    @property
    def channels(self) -> Slots:
        """Its channels.

        Raises:
            InputError: it has none, or several dimensions of them.
        """
        if self.slots is None:
            raise InputError(
                f"A tensor of shape {self.shape} does not have its channels along one dimension.",
                "Write the rule with `dims`, which holds the labels of every dimension.",
            )
        return self.slots


@dataclass(eq=False)
class Layer:
    """A parameter that reads channels and makes others: convolution, linear layer, product with a parameter.

    Attributes:
        name: the module's path, or the parameter's name.
        weight: the parameter's full name.
        outputs: the weight's dimension over what it makes, and the labels along it.
        inputs: likewise of what it reads; a convolution of which groups go whole reads nothing, it passes channels on.
        positions: multiply-adds per weight and sample.
        folds: whether a constant input can move into the bias exactly, which zero padding prevents.
        bias: name of the bias; None without one.
        source: what it reads.
        result: what it makes.
        groups: of a convolution with several: labels of the groups and of the channels in a group.
        node: of the traced graph.
        module: whether it is a module's own weight, which can be given a bias.
    """

    name: str
    weight: str
    outputs: tuple[int, Labels]
    inputs: tuple[int, Labels] | None
    positions: int
    folds: bool
    bias: str | None
    source: Var
    result: Var | None
    node: fx.Node
    groups: tuple[Labels, Labels] | None = None
    module: bool = True

    @property
    def biased(self) -> bool:
        """Whether it has a bias."""
        return self.bias is not None


@dataclass(eq=False)
class Record:
    """One operation: what it read and made, and how constants pass through it."""

    inputs: list[Var]
    outputs: list[Var] = field(default_factory=list)
    constants: Constants | None = None
    makes_constants: bool = False
    layer: Layer | None = None
    order: list[int] | None = None


@dataclass(eq=False)
class Follow:
    """A size in the code that must follow the number of channels.

    Attributes:
        size: as given.
        labels: whose number it must be; None where it must not change.
        step: whose argument it is.
        place: among that node's arguments, None where it cannot be rewritten.
        write: instead of a place, a function that corrects the node.
        where: for a reason.
    """

    size: Any
    labels: Labels | None
    step: Step
    place: Place | None
    where: str
    write: Callable[[fx.Node, Count], None] | None = None
    stands: bool = False  # whether the size follows without being rewritten, found out at the end


@dataclass(eq=False)
class Step:
    """One node of the traced graph with all that the rules of its operations said."""

    node: fx.Node
    shape: tuple[int, ...] | None
    operands: list[fx.Node] = field(default_factory=list)
    vars: list[Var] = field(default_factory=list)
    tensors: dict[str, dict[int, Labels]] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    follows: list[Follow] = field(default_factory=list)

    @property
    def layer(self) -> Layer | None:
        """Its only layer."""
        return self.layers[0] if len(self.layers) == 1 else None

    @property
    def slots(self) -> Slots | None:
        """The channels of its result, where that is one tensor with channels along one dimension."""
        return self.vars[0].slots if self.shape is not None and self.vars else None

    @property
    def parts(self) -> list[Slots] | None:
        """The channels of each of its results, where there are several."""
        if self.shape is not None or not self.vars:
            return None
        return [one.slots or Slots(0, np.empty(0, int)) for one in self.vars]


@dataclass(eq=False)
class Relation:
    """The channels of a dimension of a * b slices, taken apart into a dimension of a and one of b.

    Removal goes along one of the two: whole blocks, or evenly out of every block.
    """

    whole: Labels
    axes: list[Labels]
    where: str


class Ledger:
    """Labels handed out so far, which of them are one channel, and which must stay."""

    def __init__(self) -> None:
        self.size = 0
        self.pairs: list[tuple[Labels, Labels]] = []
        self.pins: list[tuple[Labels, str]] = []
        self.relations: list[Relation] = []
        self.heads: list[Labels] = []
        self.follows: list[Follow] = []
        self.frozen: set[Any] = set()
        self.unsure: list[tuple[str, str]] = []

    def fresh(self, number: int) -> Labels:
        """`number` labels never used before."""
        labels = np.arange(self.size, self.size + int(number))
        self.size += int(number)
        return labels

    def pin(self, labels: Labels | None, reason: str) -> None:
        """These must stay."""
        if labels is not None and labels.size:
            self.pins.append((labels.ravel(), reason))

    def unite(self, first: Labels, second: Labels) -> None:
        """``first[i]`` and ``second[i]`` are one."""
        if first is not second:
            self.pairs.append((np.asarray(first).ravel(), np.asarray(second).ravel()))

    def join(self, first: Labels | None, second: Labels | None, reason: str) -> Labels | None:
        """Two dimensions that are the same one: united, or pinned where one of them is of fixed size."""
        if first is None or second is None:
            self.pin(first if second is None else second, reason)
            return None
        self.unite(first, second)
        return first

    def relate(self, whole: Labels, axes: list[Labels], where: str) -> None:
        """Declare a `Relation`."""
        self.relations.append(Relation(whole.reshape([len(one) for one in axes]), axes, where))


class Op:
    """An operation as its rule sees it.

    Attributes:
        name: the module's path, or the operation's name.
        key: what it is called in the table.
        module: the module called, None for functions and methods.
        args: as given, tensors as `Var`, everything else as its value on the example.
        kwargs: likewise.
        results: shapes of the result's tensors, on an example of two samples.
        where: the user's own source line, for reasons and errors.
    """

    def __init__(
        self,
        key: str,
        name: str,
        module: nn.Module | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        results: list[tuple[int, ...]],
        step: Step,
        ledger: Ledger,
        where: str,
        own: bool,
        call: Callable[..., Any],
    ) -> None:
        self.key, self.name, self.module, self.args, self.kwargs = key, name, module, args, dict(kwargs)
        self.results, self.step, self.where, self.own, self._call = results, step, where, own, call
        self.operands: list[Var] = [one for one in tree_leaves((args, self.kwargs)) if isinstance(one, Var)]
        self.record = Record(self.operands)
        self.ledger = ledger
        self.used: set[int] = set()
        self.opened = False  # whether a function that torch took apart itself: its sizes follow
        self.holding: tuple[Labels, str] | None = None  # what must stay if a result beside the first is used

    @property
    def x(self) -> Var:
        """The first tensor among the arguments."""
        return self.operands[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first result."""
        return self.results[0]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument given by position or by name; the tensor itself is position 0."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def listed(self, position: int, *names: str) -> tuple[list[Any], list[Place]]:
        """Whole numbers given one by one or as a list, and where each is written."""
        for name in names:
            if name in self.kwargs:
                given = self.kwargs[name]
                return list(given), [("kwargs", name, index) for index in range(len(given))]
        if len(self.args) == position + 1 and isinstance(self.args[position], list | tuple):
            given = self.args[position]
            return list(given), [("args", position, index) for index in range(len(given))]
        given = self.args[position:]
        return list(given), [("args", position + index) for index in range(len(given))]

    def fresh(self, number: int) -> Labels:
        """Labels of `number` new channels."""
        return self.ledger.fresh(number)

    def unite(self, first: Labels, second: Labels) -> None:
        """Declare that ``first[i]`` and ``second[i]`` are one channel, for every i."""
        self.ledger.unite(np.asarray(first), np.asarray(second))

    def join(self, first: Labels | None, second: Labels | None, reason: str | None = None) -> Labels | None:
        """Declare that two dimensions are the same one; where one of them has a fixed size, the other has too."""
        return self.ledger.join(first, second, reason or f"{self.said} joins it with a dimension of fixed size")

    def pin(self, labels: Labels | None, reason: str) -> None:
        """Declare that these channels can never be removed, and why (a clause for the plan's table)."""
        self.ledger.pin(labels, reason)

    def pin_all(self, reason: str) -> None:
        """Pin every channel of every operand."""
        for one in self.operands:
            for labels in one.dims:
                self.ledger.pin(labels, reason)

    @property
    def said(self) -> str:
        """The operation for a reason."""
        return (
            f"'{self.name}'"
            if self.step.node.op == "call_module" or not self.where
            else f"'{self.name}' at {self.where}"
        )

    def follows(self, size: Any, labels: Labels | None, place: Place | None, write: Any = None) -> None:
        """Declare that a size among the arguments must be the number of these channels (None: must not change)."""
        self.used.add(id(size))
        if (
            self.opened
            or not isinstance(size, int)
            or isinstance(size, bool)
            or (labels is None and not isinstance(size, Size))
        ):
            return
        follow = Follow(size, labels, self.step, place if self.own else None, self.where, write if self.own else None)
        self.step.follows.append(follow)
        self.ledger.follows.append(follow)

    def even(self, parts: Sequence[Labels], write: Callable[[fx.Node, Count], None]) -> None:
        """Declare that the code takes it that these parts have as many channels each; `write` corrects it where they have not."""
        follow = Follow(list(parts), None, self.step, None, self.where, write if self.own and not self.opened else None)
        self.step.follows.append(follow)
        self.ledger.follows.append(follow)

    def tensor(self, name: str, dims: Mapping[int, Labels]) -> None:
        """Declare that the module's parameter or buffer `name` has these labels along these dimensions; None is passed over."""
        assert self.module is not None
        if getattr(self.module, name) is None:
            return
        known = self.step.tensors.setdefault(f"{self.name}.{name}" if self.name else name, {})
        for dim, labels in dims.items():
            if dim in known:
                self.unite(known[dim], labels)
            else:
                known[dim] = labels

    def size(self, attribute: str, labels: Labels) -> None:
        """Declare that the module's integer `attribute` is the number of these channels."""
        assert self.module is not None
        value = int(getattr(self.module, attribute))
        made = Size(value, Attribute(self.name, attribute, value), lambda _size: None)
        self.follows(made, np.asarray(labels), None)

    def reads(
        self,
        weight: Var,
        source: Var,
        *,
        outputs: int,
        inputs: int,
        positions: int,
        folds: bool,
        bias: Var | None = None,
        groups: tuple[Labels, Labels] | None = None,
    ) -> bool:
        """Declare that a weight makes channels from those of `source`; see `Layer`.

        Returns:
            False where the weight is computed from parameters, so that its inputs cannot be told to be zero: then they are pinned.
        """
        labels = weight.dims[inputs]
        if weight.param is None:
            self.pin(labels, f"{self.said} reads it by a weight that is computed")
            return False
        name, order = weight.param
        owner, _, leaf = name.rpartition(".")
        module = leaf == "weight"
        out = weight.dims[outputs]
        if out is None:
            out = self.fixed(weight.shape[outputs])
        made = Layer(
            owner if module else name,
            name,
            (order[outputs], out),
            (order[inputs], labels if labels is not None else self.fixed(weight.shape[inputs])),
            positions,
            folds and (module or bias is not None) and (bias is None or bias.param is not None),
            bias.param[0] if bias is not None and bias.param is not None else None,
            source,
            None,
            self.step.node,
            groups,
            module,
        )
        self.record.layer = made
        self.step.layers.append(made)
        return True

    def fixed(self, number: int) -> Labels:
        """Labels of channels that stay."""
        labels = self.fresh(number)
        self.pin(labels, "it is an input of the network" if not self.operands else "its size is fixed")
        return labels

    def positions(self, x: Var, number: int) -> int:
        """So many places on two samples as a number for one."""
        return max(number // 2, 1) if x.varies else number

    def constants(self, function: Constants, *, makes: bool = False) -> None:
        """Give the function that tells which output channels are constant; without one, none are.

        Args:
            function: from the operands' `Values` to the result's.
            makes: whether there may be constants in the result without any in the operands, as with padded channels.
        """
        self.record.constants = function
        self.record.makes_constants = makes

    def execute(self, tensors: Sequence[Tensor], key: str | None = None) -> Any:
        """The operation itself on other tensors in the operands' places."""
        remaining = iter(tensors)
        args, kwargs = tree_map(
            lambda one: next(remaining) if isinstance(one, Var) else int(one) if isinstance(one, Size) else one,
            (self.args, self.kwargs),
            is_leaf=lambda one: isinstance(one, Var),
        )
        with torch.no_grad():
            return self._call(*args, **kwargs)

    def refuse(self, cause: str, remedy: str) -> NoReturn:
        """Stop: this use of the operation has no exact treatment."""
        raise InputError(f"{self.said}: {cause}", remedy)


def total(shape: Sequence[int]) -> int:
    """Numbers in a tensor."""
    return math.prod(shape)


def iterate(dims: Sequence[Labels | None]) -> Iterator[Labels]:
    """The dimensions that have labels."""
    return (labels for labels in dims if labels is not None)
