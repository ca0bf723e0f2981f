"""Which weights meet at which neurons, and which invariance the theory grants them.

A *junction* is a set of neurons (channels) with the layers that make them and the layers that read them. All seven
cases of theorem 1 are one formula on it: the sum over the makers of ``W W^T + b b^T`` minus the sum over the readers of
``V^T V``, with the weights rearranged so that the rows of W and the columns of V are the shared neurons. Layers that
are added up are the `[U Z]` of a residual block, layers that read the same neurons its `[Y; Z]`.

Source: Le and Jegelka, Training invariances and the low-rank phenomenon, lemma 2 and theorem 1; see docs/dynamics.md.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, fx, nn

from gracile.channels import ChannelGraph, Example, trace
from gracile.channels.records import Step
from gracile.core.errors import InputError
from gracile.dynamics.operations import PRODUCTS, QUOTIENTS, SUMS, Between, between, key, title

Invariance = Literal["full", "pattern", "diagonal", "none"]
# Elements that are squared at a time.
BLOCK = 2**16

GRANTED: dict[Between, Invariance] = {
    Between.LINEAR: "full",
    Between.MASK: "pattern",
    Between.DIAGONAL: "diagonal",
    Between.NONE: "none",
}


@dataclass(frozen=True, eq=False)
class Term:
    """One weight at a junction.

    Attributes:
        name: the module's path, or the parameter's name.
        kind: ``linear``, ``conv``, ``diagonal`` (one factor per channel) or ``shift`` (a parameter that is added).
        weight: full name of the parameter.
        bias: full name of the parameter, if there is one; the bias of a reader does not matter and is None.
        dim: the weight's dimension that holds the shared neurons.
        groups: of a convolution.
        index: (neurons, m) positions along that dimension; m > 1 where a flattened image is read.
        pixels: of a convolution's kernel.
    """

    name: str
    kind: Literal["linear", "conv", "diagonal", "shift"]
    weight: str
    bias: str | None
    dim: int
    groups: int
    index: np.ndarray
    pixels: int = 1

    def rows(self, parameters: Mapping[str, Tensor], *, bias: bool = True) -> Tensor:
        """The maker's matrix, (neurons, rest), its bias as a last column."""
        weight = parameters[self.weight]
        if self.kind == "shift":
            return self.picked(weight.reshape(-1, 1))
        if self.kind == "diagonal":
            return torch.diag(weight.reshape(-1)[self.index[:, 0]])
        matrix = self.picked(_ungrouped(weight, self.groups).movedim(self.dim, 0).flatten(1))
        if bias and self.bias is not None:
            matrix = torch.cat([matrix, self.picked(parameters[self.bias])[:, None]], dim=1)
        return matrix

    def columns(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The reader's matrix, (rest, neurons)."""
        weight = parameters[self.weight]
        if self.kind == "diagonal":
            return torch.diag(weight.reshape(-1)[self.index[:, 0]])
        moved = self.picked(_ungrouped(weight, self.groups).movedim(self.dim, 0).flatten(1))  # (inputs, rest)
        neurons, each = self.index.shape
        return moved.reshape(neurons, -1).t() if each > 1 else moved.t()

    def picked(self, tensor: Tensor, dim: int = 0) -> Tensor:
        """The shared neurons along a dimension; the tensor itself where they are all there is, in order."""
        if self._in_order and self.index.size == tensor.shape[dim]:
            return tensor
        return tensor.index_select(dim, torch.as_tensor(self.index.reshape(-1), device=tensor.device))

    @cached_property
    def _in_order(self) -> bool:
        return bool((self.index.reshape(-1) == np.arange(self.index.size)).all())


def _ungrouped(weight: Tensor, groups: int) -> Tensor:
    """A grouped convolution's weight as that of a plain one, (outputs, inputs, ...), zero across groups."""
    if groups == 1:
        return weight
    outputs, each = weight.shape[0] // groups, weight.shape[1]
    dense = weight.new_zeros(groups, outputs, groups, each, *weight.shape[2:])
    place = torch.arange(groups, device=weight.device)
    dense[place, :, place] = weight.reshape(groups, outputs, each, *weight.shape[2:])
    return dense.reshape(groups * outputs, groups * each, *weight.shape[2:])


@dataclass(frozen=True, eq=False)
class Junction:
    """Neurons and the weights that meet there; see the module.

    Attributes:
        name: such as ``conv1 -> conv2`` or ``[u, z] -> [y, w]``.
        case: of theorem 1, such as ``linear-linear``; ``residual stream`` for the sum over a whole stream with identity
            skips.
        number: of the case in the paper, None beyond it.
        size: neurons (channels).
        makers: the weights of the layers that make the neurons.
        readers: the weights of the layers that read them.
        invariance: ``full``: every entry of D is conserved; ``pattern``: the diagonal, and entries of neurons that are
            switched alike on every example; ``diagonal``: the diagonal only; ``none``.
        reason: why it is not more.
        mask: name of the module or node whose activation is the only one between, where `invariance` is ``pattern``.
    """

    name: str
    case: str
    number: int | None
    size: int
    makers: tuple[Term, ...]
    readers: tuple[Term, ...]
    invariance: Invariance
    reason: str
    mask: str | None = None

    @property
    def terms(self) -> tuple[Term, ...]:
        """Makers, then readers."""
        return (*self.makers, *self.readers)

    def stacked(self, parameters: Mapping[str, Tensor], *, biases: bool = True) -> tuple[Tensor, Tensor]:
        """``W1`` (neurons, a) and ``W2`` (c, neurons) of theorem 1: makers side by side, readers one upon the other."""
        rows = [term.rows(parameters, bias=biases) for term in self.makers if biases or term.kind != "shift"]
        columns = [term.columns(parameters) for term in self.readers]
        return (
            torch.cat(rows, dim=1) if len(rows) > 1 else rows[0],
            torch.cat(columns, dim=0) if len(columns) > 1 else columns[0],
        )

    def difference(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """``D = W1 W1^T (+ b b^T) - W2^T W2``, (neurons, neurons)."""
        first, second = self.stacked(parameters)
        return torch.addmm(first @ first.t(), second.t(), second, alpha=-1)

    def bias_squares(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The biases' part of the diagonal of D: the sum of their squares, (neurons,) or a zero."""
        found = torch.zeros((), device=parameters[self.makers[0].weight].device)
        for term in self.makers:
            name = term.weight if term.kind == "shift" else term.bias
            if name is not None:
                found = found + term.picked(parameters[name].reshape(-1)).square()
        return found

    def diagonal(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The diagonal of D, (neurons,), without forming D."""
        # Biases apart: set beside the weights as a column they would cost a copy of every matrix.
        first, second = self.stacked(parameters, biases=False)
        return row_squares(first) + self.bias_squares(parameters) - row_squares(second.t())


def row_squares(matrix: Tensor) -> Tensor:
    """The sum of squares of each row, (a,) of (a, n)."""
    if matrix.stride(1) == 1:
        return torch.linalg.vector_norm(matrix, dim=1).square()
    # A column at a time is slow, and the whole square fresh memory, which costs more than the arithmetic.
    blocks = matrix.split(max(1, BLOCK // max(1, len(matrix))), dim=1)
    return torch.stack([block.square().sum(1) for block in blocks]).sum(0)


@dataclass(eq=False)
class _Use:
    """A weight and the neuron at each position along one of its dimensions."""

    name: str
    kind: Literal["linear", "conv", "diagonal", "shift"]
    weight: str
    bias: str | None
    dim: int
    groups: int
    neurons: np.ndarray
    makes: bool
    reads: np.ndarray | None = None  # of a maker: the neurons it makes its own from


@dataclass(eq=False)
class _Neurons:
    """All that is known of every neuron, by number."""

    count: int = 0
    between: dict[int, Between] = field(default_factory=lambda: defaultdict(lambda: Between.LINEAR))
    reason: dict[int, str] = field(default_factory=dict)
    masks: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    skips: dict[int, str] = field(default_factory=dict)
    same: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    stream: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def fresh(self, number: int) -> np.ndarray:
        made = np.arange(self.count, self.count + number)
        self.count += number
        return made

    def pass_through(self, neurons: np.ndarray, kind: Between, reason: str) -> None:
        for one in np.unique(neurons[neurons >= 0]).tolist():
            self.between[one] = max(self.between[one], kind)
            if kind is Between.NONE:
                self.reason.setdefault(one, reason)

    def roots(self, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Number of the least neuron each is joined with."""
        root = np.arange(self.count)

        def find(one: int) -> int:
            while root[one] != one:
                root[one] = root[root[one]]
                one = int(root[one])
            return one

        for first, second in pairs:
            for a, b in zip(first.tolist(), second.tolist(), strict=True):
                if a >= 0 and b >= 0:
                    a, b = find(a), find(b)
                    root[max(a, b)] = min(a, b)
        return np.array([find(one) for one in range(self.count)], int)


class _Reader:
    """Walks the traced graph once and notes which weights make and read which neurons."""

    def __init__(self, graph: ChannelGraph) -> None:
        self.graph = graph
        self.modules = dict(graph.model.named_modules())
        self.parameters = dict(graph.model.named_parameters())
        self.neurons = _Neurons()
        self.uses: list[_Use] = []
        self.at: dict[fx.Node, np.ndarray | list[np.ndarray]] = {}
        self.raw: dict[fx.Node, bool] = {}
        self.sources: dict[fx.Node, np.ndarray] = {}
        for step in graph.steps:
            self._step(step)

    def _step(self, step: Step) -> None:
        node = step.node
        if node.op == "placeholder":
            if step.slots is not None:
                self._put(node, self.neurons.fresh(len(step.slots.labels)))
            return
        if node.op == "output":
            for source in node.all_input_nodes:
                self._pass(source, Between.NONE, "its neurons are outputs of the network")
            return
        if node.op == "get_attr" or (step.slots is None and step.parts is None):
            return
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        if step.layer is not None:
            self._layer(step, module)
        elif key(node, module) in SUMS:
            self._sum(step)
        elif key(node, module) in PRODUCTS | QUOTIENTS:
            self._product(step, key(node, module) in QUOTIENTS)
        else:
            self._other(step, module)

    def _put(self, node: fx.Node, neurons: np.ndarray, raw: bool = False) -> None:
        self.at[node], self.raw[node] = neurons, raw

    def _of(self, node: fx.Node) -> np.ndarray:
        found = self.at.get(node)
        return np.concatenate(found) if isinstance(found, list) else np.empty(0, int) if found is None else found

    def _pass(self, node: fx.Node, kind: Between, reason: str = "") -> None:
        self.neurons.pass_through(self._of(node), kind, reason)

    def _layer(self, step: Step, module: Any) -> None:
        layer, source = step.layer, step.operands[0]
        assert layer is not None
        neurons = self._of(source)
        kind = "linear" if isinstance(module, nn.Linear) else "conv"
        transposed = layer.outputs[0] == 1
        groups = getattr(module, "groups", 1)
        made = self.neurons.fresh(module.weight.shape[layer.outputs[0]])
        bias = f"{layer.name}.bias" if layer.biased else None
        reads = 0 if transposed else 1
        self.uses.append(_Use(layer.name, kind, layer.weight, None, reads, groups, neurons, False))
        self.uses.append(_Use(layer.name, kind, layer.weight, bias, 1 - reads, groups, made, True, neurons))
        if groups > 1:
            for one in (neurons, made):
                self.neurons.pass_through(one, Between.DIAGONAL, "")
        self._put(step.node, made, raw=True)

    def _sum(self, step: Step) -> None:
        """Layers that are added up make their neurons together; anything else that is added is a skip."""
        node = step.node
        tensors = [one for one in step.operands if one in self.at]
        others = [one for one in step.operands if one not in self.at]
        lengths = {len(self._of(one)) for one in tensors}
        constant = len(step.operands) < 2 and sum(not isinstance(one, fx.Node) for one in node.args) > 0
        if constant or len(lengths) != 1 or (step.slots is not None and lengths != {len(step.slots.labels)}):
            for one in tensors:
                self._pass(one, Between.NONE, f"{title(node)} adds a constant or spreads one channel over others")
            self._put(node, self._of(tensors[0]))
            return
        fresh = [one for one in tensors if self.raw[one] and len(one.users) == 1]
        skips = [one for one in tensors if one not in fresh]
        made = self._of(fresh[0]) if fresh else self.neurons.fresh(lengths.pop())
        for one in fresh[1:]:
            self.neurons.same.append((made, self._of(one)))
        for one in others:
            self._shift(node, one, made)
        reason = f"{title(node)} adds an identity skip, an edge that is not learned"
        for one in skips:
            old = self._of(one)
            self.neurons.stream.append((made, old))
            for neuron in np.concatenate([made, old]).tolist():
                self.neurons.skips.setdefault(neuron, reason)
            self.sources[node] = old
        self._put(node, made, raw=not skips)

    def _shift(self, node: fx.Node, attribute: fx.Node, made: np.ndarray) -> None:
        """A parameter that is added is a bias; a buffer is a constant."""
        parameter = self.parameters.get(str(attribute.target))
        if parameter is None or parameter.numel() != len(made):
            self.neurons.pass_through(
                made, Between.NONE, f"{title(node)} adds a constant or spreads one over the channels"
            )
            return
        name = str(attribute.target)
        self.uses.append(_Use(name, "shift", name, None, 0, 1, made, True))

    def _product(self, step: Step, quotient: bool) -> None:
        node = step.node
        tensors = [one for one in step.operands if one in self.at]
        others = [one for one in step.operands if one not in self.at]
        neurons = self._of(tensors[0])
        if len(tensors) > 1:
            for one in tensors:
                self._pass(one, Between.NONE, f"{title(node)} multiplies activations with each other")
            self._put(node, neurons)
            return
        parameter = self.parameters.get(str(others[0].target)) if others else None
        if quotient and node.args and node.args[0] is not tensors[0]:
            self._pass(tensors[0], Between.NONE, f"{title(node)} divides by activations")
            self._put(node, neurons)
        elif not quotient and parameter is not None and parameter.numel() == len(neurons) > 1:
            name = str(others[0].target)
            made = self.neurons.fresh(len(neurons))
            for one in (neurons, made):
                self.neurons.pass_through(one, Between.DIAGONAL, "")
            self.uses.append(_Use(name, "diagonal", name, None, 0, 1, neurons, False))
            self.uses.append(_Use(name, "diagonal", name, None, 0, 1, made, True, neurons))
            self._put(node, made, raw=True)
        else:
            # The same factor for every channel commutes with all, one per channel with diagonals.
            many = any(one.op == "get_attr" and self._numel(one) > 1 for one in others)
            self._pass(tensors[0], Between.DIAGONAL if many else Between.LINEAR)
            self._put(node, neurons, self._still_raw(tensors[0]))

    def _numel(self, node: fx.Node) -> int:
        shape = self.graph.by_node[node].shape
        return int(np.prod(shape)) if shape else 1

    def _still_raw(self, source: fx.Node) -> bool:
        return self.raw.get(source, False) and len(source.users) == 1

    def _other(self, step: Step, module: nn.Module | None) -> None:
        node = step.node
        kind, reason = between(node, module)
        tensors = [one for one in step.operands if one in self.at]
        if len(tensors) > 1 and kind is not Between.LINEAR:
            kind, reason = Between.NONE, f"{title(node)} mixes activations"
        for one in tensors:
            self._pass(one, kind, reason)
            if kind is Between.MASK:
                for neuron in self._of(one).tolist():
                    self.neurons.masks[neuron].add(title(node).strip("'"))
        raw = kind is not Between.MASK and kind is not Between.DIAGONAL and all(map(self._still_raw, tensors))
        found = self._moved(step, tensors)
        self.at[node], self.raw[node] = found, raw

    def _moved(self, step: Step, tensors: list[fx.Node]) -> np.ndarray | list[np.ndarray]:
        """The neurons of the result's channels: where an operation only moves channels their labels tell."""
        if step.parts is not None:
            return [self._by_label(step, tensors, part.labels) for part in step.parts]
        assert step.slots is not None
        labels = step.slots.labels
        lengths = [len(self._of(one)) for one in tensors]
        if len(tensors) > 1 and sum(lengths) == len(labels):
            return np.concatenate([self._of(one) for one in tensors])
        picked = self.at.get(tensors[0])
        if isinstance(picked, list):  # one of several tensors
            return picked[step.node.args[1]]  # type: ignore[index]
        found = self._by_label(step, tensors, labels)
        source = self.graph.by_node[tensors[0]]
        taken_apart = (
            source.slots is not None and source.shape is not None and step.shape is not None
            and int(np.prod(source.shape)) == int(np.prod(step.shape)) and len(labels) < lengths[0]
        )  # fmt: skip
        if taken_apart:
            self._pass(tensors[0], Between.NONE, f"{title(step.node)} takes channels apart")
        return found

    def _by_label(self, step: Step, tensors: list[fx.Node], labels: np.ndarray) -> np.ndarray:
        known: dict[int, int] = {}
        for one in tensors:
            slots = self.graph.by_node[one].slots
            if slots is not None:
                known.update(zip(slots.labels.tolist(), self._of(one).tolist(), strict=True))
        return np.array([known.get(label, -1) for label in labels.tolist()], int)


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """A model's parameters by name, without their gradients: what a junction's measures are taken of."""
    return {name: one.detach() for name, one in model.named_parameters()}


def find(model: nn.Module, example: Example) -> list[Junction]:
    """Every junction of a network, in the order of its layers, streams with identity skips last.

    Args:
        model: any module the channel graph can trace; not changed.
        example: one batch of inputs.

    Raises:
        InputError: the model cannot be traced, or shares weights between layers.
    """
    return of_graph(traced(model, example))


def traced(model: nn.Module, example: Example) -> ChannelGraph:
    """The channel graph, its refusals in this room's words."""
    try:
        graph = trace(model, example)
    except InputError as error:
        remedy = error.remedy.replace(", or train with grouping='input_channel'", "").replace(
            "; grouping='input_channel' trains without a graph", ""
        )
        raise InputError(error.cause, remedy) from error
    read = Counter(layer.weight for layer in graph.layers)
    twice = next((name for name, count in read.items() if count > 1), None)
    if twice is not None:
        raise InputError(
            f"'{twice}' is one parameter that {read[twice]} layers read.",
            "The theorems are about weights of their own: give each layer its own.",
        )
    return graph


def of_graph(graph: ChannelGraph) -> list[Junction]:
    """The junctions of a traced network."""
    reader = _Reader(graph)
    neurons = reader.neurons
    same = neurons.roots(neurons.same)
    found = _group(reader, same, streams=False)
    if neurons.skips:
        found += _group(reader, neurons.roots([*neurons.same, *neurons.stream]), streams=True)
    return found


def _group(reader: _Reader, roots: np.ndarray, *, streams: bool) -> list[Junction]:
    """Neurons that the same weights make and read, as junctions."""
    neurons = reader.neurons
    members: dict[int, list[int]] = defaultdict(list)
    for one, root in enumerate(roots.tolist()):
        members[root].append(one)
    places: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, use in enumerate(reader.uses):
        for position, one in enumerate(use.neurons.tolist()):
            if one >= 0:
                places[int(roots[one])].append((number, position))
    groups: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
    for root, found in places.items():
        counts: dict[int, int] = defaultdict(int)
        for number, _ in found:
            counts[number] += 1
        groups[tuple(sorted(counts.items()))].append(root)
    junctions = []
    for signature, shared in groups.items():
        makers = [number for number, _ in signature if reader.uses[number].makes]
        readers = [number for number, _ in signature if not reader.uses[number].makes]
        weights = [number for number in makers if reader.uses[number].kind != "shift"]
        skipped = any(neurons.skips.get(one) for root in shared for one in members[root])
        if not weights or not readers or (streams and not skipped):
            continue
        place: dict[int, dict[int, list[int]]] = {}
        for root in shared:
            where: dict[int, list[int]] = defaultdict(list)
            for number, position in places[root]:
                where[number].append(position)
            place[root] = where
        first = weights[0]
        shared.sort(key=lambda root: place[root][first][0])
        junctions.append(_junction(reader, shared, members, place, makers, readers, streams))
    return junctions


def _junction(
    reader: _Reader,
    shared: list[int],
    members: Mapping[int, list[int]],
    place: Mapping[int, Mapping[int, list[int]]],
    makers: list[int],
    readers: list[int],
    stream: bool,
) -> Junction:
    neurons = reader.neurons
    every = [one for root in shared for one in members[root]]
    kind = max(neurons.between[one] for one in every)
    reason = next((neurons.reason[one] for one in every if one in neurons.reason), "")
    masks = {mask for one in every for mask in neurons.masks.get(one, ())}

    def term(number: int) -> Term:
        use = reader.uses[number]
        index = np.array([place[root][number] for root in shared], int)
        shape = reader.parameters[use.weight].shape
        pixels = math.prod(shape[2:]) if use.kind == "conv" else 1
        return Term(use.name, use.kind, use.weight, use.bias, use.dim, use.groups, index, pixels)

    made, read = tuple(map(term, makers)), tuple(map(term, readers))
    frozen = [
        name
        for one in (*made, *read)
        for name in (one.weight, one.bias)
        if name is not None and not reader.parameters[name].requires_grad
    ]
    if frozen:
        kind, reason = Between.NONE, f"'{frozen[0]}' is frozen"
    if not stream:
        skip = next((neurons.skips[one] for one in every if one in neurons.skips), "")
        if skip and kind is not Between.NONE:
            kind, reason = Between.NONE, skip + "; what is conserved is the sum over the whole stream"
    if kind is Between.MASK and len(masks) != 1:
        kind = Between.DIAGONAL
    if not reason:
        reason = _why_not_more(kind, masks, (*made, *read))
    case, number = ("residual stream", None) if stream else _case(reader, made, read, makers, readers)
    invariance = GRANTED[kind]
    mask = next(iter(masks)) if invariance == "pattern" else None
    return Junction(f"{_side(made)} -> {_side(read)}", case, number, len(shared), made, read, invariance, reason, mask)


def _why_not_more(kind: Between, masks: set[str], terms: tuple[Term, ...]) -> str:
    if kind is Between.LINEAR:
        return "nothing but linear maps between"
    if kind is Between.MASK:
        return f"'{next(iter(masks))}' switches neurons; pairs that are switched alike keep their entry"
    if any(term.kind == "diagonal" or term.groups > 1 for term in terms):
        return "a weight that acts on each channel, or group of channels, by itself"
    return "positively homogeneous operations between"


def _side(terms: tuple[Term, ...]) -> str:
    names = [term.name for term in terms]
    return names[0] if len(names) == 1 else f"[{', '.join(names)}]"


NUMBERS = {
    "linear-linear": 1, "conv-conv": 2, "within block": 3, "block-block": 4, "conv-linear": 5, "conv-block": 6, "block-linear": 7,
    "linear-block": 7,
}  # fmt: skip


def _case(
    reader: _Reader, made: tuple[Term, ...], read: tuple[Term, ...], makers: list[int], readers: list[int]
) -> tuple[str, int | None]:
    """Which of theorem 1's cases it is."""
    kinds = [one.kind for one in made if one.kind != "shift"]
    left = "block" if len(kinds) > 1 else kinds[0]
    right = "block" if len(read) > 1 else next(one.kind for one in read)
    if left in ("linear", "conv") and right in ("linear", "conv") and _inside_block(reader, makers[0], readers[0]):
        return "within block", NUMBERS["within block"]
    case = f"{left}-{right}"
    return case, NUMBERS.get(case)


def _inside_block(reader: _Reader, maker: int, last: int) -> bool:
    """Whether what the pair reads goes around it: the maker Y and the reader U of ``U s(Y x) + Z x``."""
    source = reader.uses[maker].reads
    second = reader.uses[last + 1]  # the same layer as a maker
    assert source is not None
    target = set(second.neurons.tolist())
    around = [old for made, old in reader.neurons.stream if target & set(made.tolist())]
    for first, other in reader.neurons.same:
        if target & set(first.tolist()) | target & set(other.tolist()):
            around += [
                use.reads for use in reader.uses
                if use.makes and use.reads is not None and use is not second
                and set(use.neurons.tolist()) & (set(first.tolist()) | set(other.tolist()))
            ]  # fmt: skip
    return any(set(source.tolist()) & set(one.tolist()) for one in around)
