"""What is known of a run: its tensors with the labels of their dimensions, its operations, and which labels are one.

Every slice of a tensor along each of its dimensions may carry a *label*, an integer. Slices with one label are one channel: they are
kept or removed together, in activations and in parameters alike. A dimension without labels has a fixed size: the batch, positions,
the network's inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor, fx

from gracile.channels.sizes import Attribute, Labels, Measured, Size, plain
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
        value: what it holds, of a tensor that the model keeps beside its parameters and buffers.
        cells: which entries of a dimension that was taken apart it holds, where that is known.
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
    value: Tensor | None = None
    cells: Cells | None = None

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
        folds: whether a constant input can move into the bias exactly; zero padding prevents it, and other readers of the bias.
        bias: name of the bias; None without one.
        source: what it reads.
        result: what it makes.
        groups: of a convolution with several: labels of the groups and of the channels in a group.
        node: of the traced graph.
        module: whether it is a module that is called whole, which can be given a bias.
        along: labels of the positions, where these are channels of others.
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
    along: tuple[Labels, ...] = ()

    def positions_left(self, count: Count) -> int:
        """Multiply-adds per weight and sample once only so many of some channels are left."""
        left = self.positions
        for labels in self.along:
            left = left * count(labels) // max(len(labels), 1)
        return left

    @property
    def biased(self) -> bool:
        """Whether it has a bias."""
        return self.bias is not None


@dataclass(eq=False)
class Cells:
    """Entries of a dimension that was taken apart, in a tensor that holds some of them.

    Attributes:
        axes: the tensor's dimensions that tell them apart.
        labels: of the entries, one axis for each of these dimensions.
        along: labels of these dimensions.
    """

    axes: tuple[int, ...]
    labels: Labels
    along: list[Labels]

    def placed(self, axes: Sequence[int]) -> Cells:
        """The same along other dimensions."""
        return Cells(tuple(axes), self.labels, self.along)

    def taken(self, dim: int, index: int) -> Cells:
        """One position of a dimension, which is gone then."""
        axes = tuple(axis - (axis > dim) for axis in self.axes if axis != dim)
        if dim not in self.axes:
            return self.placed(axes)
        at = self.axes.index(dim)
        return Cells(axes, self.labels.take(index, at), self.along[:at] + self.along[at + 1 :])

    def chosen(self, dim: int, index: Labels) -> Cells:
        """Positions of a dimension, in this order."""
        at = self.axes.index(dim)
        along = [one[index] if number == at else one for number, one in enumerate(self.along)]
        return Cells(self.axes, self.labels.take(index, at), along)

    def ordered(self, axes: Sequence[int]) -> Cells:
        """The same with its dimensions in this order."""
        order = [self.axes.index(axis) for axis in axes]
        return Cells(tuple(axes), self.labels.transpose(order), [self.along[one] for one in order])

    def last(self, axis: int) -> Cells:
        """The same with this dimension last."""
        return self.ordered([*(one for one in self.axes if one != axis), axis])


@dataclass(eq=False)
class Product:
    """A sum over what may be the width of heads.

    Attributes:
        queries: entries of one factor, (h, d).
        keys: entries of the other, as many.
        first: the factor itself.
        second: likewise.
        shared: whether what all positions of the second have alike makes no difference.
        reason: why the width stays, if it has to.
    """

    queries: Cells
    keys: Cells
    first: Var
    second: Var
    shared: bool
    reason: str


@dataclass(eq=False)
class Merge:
    """Heads put beside each other again: entries, and the relation of the dimension made."""

    cells: Cells
    relation: Relation


@dataclass(eq=False)
class Block:
    """Heads of which each that stays is left with as many members as any other.

    Attributes:
        heads: labels, (h,).
        members: labels of what is inside of each, (h, d): channels of keys and queries that are multiplied with each other, or of values.
        width: labels of the dimension that a view makes of them, (d,), of which as many stay; None without a view.
        paired: of keys and queries, which are needed by a head that stays, (h, d) of bool, given label to class and what `Liveness` says of
            weights that are not zero and of values; None where members stay because a weight reads them.
    """

    heads: Labels
    members: Labels
    width: Labels | None = None
    paired: Callable[..., np.ndarray] | None = None


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


@dataclass(frozen=True, eq=False)
class Choice:
    """A comparison of numbers of channels in the model's code; `size` is its outcome, 0 or 1, with both sides."""

    size: Size
    where: str

    def stays(self, of: Callable[[Measured | Attribute, int], int]) -> bool:
        """Whether it comes out alike when the leaves are what `of` says."""
        try:
            return bool(self.size.value(of)) == bool(plain(self.size))
        except ZeroDivisionError:
            return False


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
    blocks: list[Block] = field(default_factory=list)

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

    Attributes:
        whole: labels of the slices, (a, b).
        axes: labels of the two dimensions.
        where: the operation, for reasons.
        grouped: whether the blocks are a convolution's groups, whose weights hold b * c numbers each.
    """

    whole: Labels
    axes: list[Labels]
    where: str
    grouped: bool = False


class Ledger:
    """Labels handed out so far, which of them are one channel, and which must stay."""

    def __init__(self) -> None:
        self.size = 0
        self.pairs: list[tuple[Labels, Labels]] = []
        self.pins: list[tuple[Labels, str]] = []
        self.relations: list[Relation] = []
        self.heads: list[Labels] = []
        self.follows: list[Follow] = []
        self.choices: list[Choice] = []
        self.frozen: set[Any] = set()
        self.unsure: list[tuple[str, str]] = []
        self.products: list[Product] = []
        self.merges: list[Merge] = []
        self.loose: list[tuple[Labels, str]] = []
        self.blocks: list[Block] = []

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

    def relate(self, whole: Labels, axes: list[Labels], where: str, *, grouped: bool = False) -> Relation:
        """Declare a `Relation`."""
        made = Relation(whole.reshape([len(one) for one in axes]), axes, where, grouped)
        self.relations.append(made)
        return made
