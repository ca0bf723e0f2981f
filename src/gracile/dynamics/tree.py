"""Lemma 1: every network of linear maps and positively homogeneous units is a tree whose weights are signs, applied to its paths.

``f(x; w) = h(p(x, w))``: p holds, for every maximal path, the product of its weights times its input coordinate; h is a
tree network with weights in {-1, +1} that are fixed by the signs of w. Two steps: unroll the graph into a tree of
paths, then pull the magnitudes of the weights back through each unit to the inputs. A bias is the weight of an edge
from an input that is always 1.

Source: Le and Jegelka, lemma 1 and appendix B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx, nn

from gracile.channels import Example
from gracile.core.errors import InputError
from gracile.dynamics.junctions import traced
from gracile.dynamics.operations import MASKS, PRODUCTS, key
from gracile.dynamics.paths import HOMOGENEOUS, IGNORED, check_unit, count_paths

BIAS = -1


@dataclass(frozen=True, eq=False)
class TreeNetwork:
    """The tree h and its paths. Vertices are numbered from the output, 0, so that a parent comes before its children.

    Attributes:
        parent: (vertices,), -1 for the output.
        depth: (vertices,).
        sign: (vertices,) weight of the edge to the parent, -1 or 1.
        slope: (vertices,) of the activation below zero: 1 linear, 0 ReLU.
        edge: (vertices,) which edge of the network it came from, -1 for the output.
        leaves: (paths,) vertices where a path begins.
        coordinate: (paths,) its input, `BIAS` for the constant 1.
        leaf_sign: (paths,) of the linear unit at the leaf that takes the sign out of the path's product.
        names: (vertices,) what each is a copy of.
    """

    parent: np.ndarray
    depth: np.ndarray
    sign: np.ndarray
    slope: np.ndarray
    edge: np.ndarray
    leaves: np.ndarray
    coordinate: np.ndarray
    leaf_sign: np.ndarray
    names: tuple[str, ...]
    _units: _Units

    @property
    def num_paths(self) -> int:
        """Maximal paths, which are the inputs of h."""
        return len(self.leaves)

    @property
    def weights(self) -> np.ndarray:
        """All weights of h: each is -1 or 1."""
        return np.concatenate([self.sign[1:], self.leaf_sign])

    def path_enumeration(self, x: Tensor, model: nn.Module | None = None) -> np.ndarray:
        """p(x, w), (n, paths).

        Args:
            x: (n, ...) inputs.
            model: take the weights from this network of the same architecture, as after training; by default those at
                the time the tree was made.
        """
        weights = self._units.weights if model is None else _Units(model, x[:1]).weights
        product = np.ones(len(self.parent))
        for level in range(1, int(self.depth.max()) + 1):
            at = np.flatnonzero(self.depth == level)
            product[at] = product[self.parent[at]] * weights[self.edge[at]]
        inputs = x.detach().double().flatten(1).numpy()
        inputs = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)  # the last column answers BIAS
        return product[self.leaves] * inputs[:, self.coordinate]

    def __call__(self, p: np.ndarray) -> np.ndarray:
        """h(p): (n, paths) to (n,)."""
        total = np.zeros((len(p), len(self.parent)))
        total[:, self.leaves] = p * self.leaf_sign
        for level in range(int(self.depth.max()), 0, -1):
            at = np.flatnonzero(self.depth == level)
            np.add.at(total.T, self.parent[at], (self._activated(total, at) * self.sign[at]).T)
        return self._activated(total, np.array([0]))[:, 0]

    def _activated(self, total: np.ndarray, at: np.ndarray) -> np.ndarray:
        values = total[:, at]
        return np.where(values > 0, values, self.slope[at] * values)

    def evaluate(self, x: Tensor, model: nn.Module | None = None) -> np.ndarray:
        """``h(p(x, w))``, (n,): the network's own output."""
        return self(self.path_enumeration(x, model))


def tree_decomposition(
    model: nn.Module, example: Example | None = None, *, output: int | None = None, limit: int = 100_000
) -> TreeNetwork:
    """Build lemma 1's tree network and path enumeration function.

    Args:
        model: feedforward: linear layers, convolutions and fixed linear maps with ReLU, leaky ReLU or |.| between; sums
            and concatenations (skips) included. Not changed.
        example: one batch of inputs; may be left out where the first layer is linear.
        output: which output, where there are several; the lemma is about a scalar.
        limit: refuse more paths than this.

    Returns:
        The tree.

    Raises:
        InputError: more paths than `limit` (the message tells how many), several outputs, a unit that is not positively
            homogeneous, batch-norm, or shared weights.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from gracile.dynamics import tree_decomposition
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
        >>> tree = tree_decomposition(net)
        >>> tree.num_paths, sorted({abs(w) for w in tree.weights.tolist()})
        (4, [1.0])
    """
    if example is None:
        first = next((one for one in model.modules() if isinstance(one, nn.Linear | nn.Conv1d | nn.Conv2d)), None)
        if not isinstance(first, nn.Linear):
            raise InputError("The shape of the inputs is not known.", "Give an example.")
        example = torch.zeros(1, first.in_features, dtype=first.weight.dtype)
    number = count_paths(model, example, output=output)
    outputs = _outputs(model, example)
    if output is None and outputs > 1:
        raise InputError(
            f"The network has {outputs} outputs, and the lemma is about one.",
            f"Give output=0 to {outputs - 1} for the tree of each; the conserved quantities hold for several as well.",
        )
    if number > limit:
        raise InputError(
            f"The tree would have {number} paths, more than limit={limit}.", "Take a smaller network, or raise limit."
        )
    return _unroll(_Units(model, example), output or 0)


def _outputs(model: nn.Module, example: Example) -> int:
    shapes = {step.node: step.shape for step in traced(model, example).steps}
    final = next(node for node in shapes if node.op == "output").all_input_nodes[0]
    return int(np.prod((shapes[final] or (1, 1))[1:]))


class _Units:
    """The network's graph unit by unit: edges with their weights, and the slope of each unit's activation."""

    def __init__(self, model: nn.Module, example: Example) -> None:
        graph = traced(model, example)
        self.modules = dict(model.named_modules())
        self.parameters = dict(model.named_parameters())
        self.first: dict[fx.Node, int] = {}  # number of a node's first unit
        self.slopes: list[float] = []
        self.names: list[str] = []
        self.into: list[list[tuple[int, int]]] = []  # per unit: (source unit or BIAS, edge)
        self.inputs = 0
        weights: list[float] = []
        self.flat = weights
        shapes = {step.node: step.shape for step in graph.steps}
        for step in graph.steps:
            node = step.node
            module = self.modules[str(node.target)] if node.op == "call_module" else None
            check_unit(node, module)
            if node.op == "output":
                final = node.all_input_nodes[0]
                self.last = self.first[final]
            elif node.op == "get_attr" or step.shape is None:
                continue
            else:
                self._node(node, module, shapes)
        self.weights = np.array(weights)

    def _new(self, node: fx.Node, number: int, slope: float | np.ndarray = 1.0) -> int:
        start = len(self.slopes)
        self.first[node] = start
        self.slopes += np.broadcast_to(slope, (number,)).tolist()
        self.names += [f"{node.name}[{unit}]" for unit in range(number)]
        self.into += [[] for _ in range(number)]
        return start

    def _join(self, unit: int, source: int, weight: float) -> None:
        self.into[unit].append((source, len(self.flat)))
        self.flat.append(weight)

    def _node(self, node: fx.Node, module: nn.Module | None, shapes: dict[fx.Node, Any]) -> None:
        shape = shapes[node][1:]
        size = int(np.prod(shape))
        if node.op == "placeholder":
            self._new(node, size)
            self.inputs = size
            return
        known = key(node, module)
        start = self._new(node, size, self._slope(node, module, shape))
        tensors = [one for one in node.all_input_nodes if one in self.first]
        if known in MASKS | HOMOGENEOUS | IGNORED:
            for unit in range(size):
                self._join(start + unit, self.first[tensors[0]] + unit, 1.0)
            return
        others = {one: self.parameters[str(one.target)].detach().double() for one in node.all_input_nodes
                  if one.op == "get_attr" and str(one.target) in self.parameters}  # fmt: skip
        zeros = {one: torch.zeros(1, *shapes[one][1:], dtype=torch.float64) for one in tensors}
        layer = isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
        for one in tensors:
            if tensors.count(one) > 1:
                raise InputError(f"'{node.name}' reads '{one.name}' twice.", "Use it once, with twice the weight.")
            width = int(np.prod(shapes[one][1:]))
            basis = torch.eye(width, dtype=torch.float64).reshape(width, *shapes[one][1:])
            given = {**{k: v.expand(width, *v.shape[1:]) for k, v in zeros.items()}, one: basis}
            fixed = {k: v if known in PRODUCTS else torch.zeros_like(v) for k, v in others.items()}
            weight = _run(node, _plain(module, None) if layer else module, {**given, **fixed}).reshape(width, size)
            there = weight
            if layer:
                there = _run(node, _plain(module, 1.0), {**given, **fixed}).reshape(width, size)
            for source, unit in torch.nonzero(there).tolist():
                self._join(start + unit, self.first[one] + source, weight[source, unit].item())
        shifts = torch.zeros(1, size, dtype=torch.float64)
        if layer and module is not None and module.bias is not None:
            bias = cast(Tensor, module.bias).detach().double()
            along = len(shape) - 1 if isinstance(module, nn.Linear) else 0
            shifts = (
                bias.reshape([-1 if axis == along else 1 for axis in range(len(shape))]).expand(shape).reshape(1, size)
            )
            added = True
        else:
            added = bool(others) and known not in PRODUCTS
            if added:
                shifts = _run(node, module, {**zeros, **others}).reshape(1, size)
        if added:
            for unit in range(size):
                self._join(start + unit, BIAS, shifts[0, unit].item())

    def _slope(self, node: fx.Node, module: nn.Module | None, shape: tuple[int, ...]) -> float | np.ndarray:
        known = key(node, module)
        if known in (torch.abs, "abs"):
            return -1.0
        if isinstance(module, nn.PReLU):
            each = module.weight.detach().double().numpy()
            return np.repeat(each, int(np.prod(shape)) // len(each)) if len(each) > 1 else each
        if known not in MASKS:
            return 1.0
        function = module if module is not None else node.target
        minus = -torch.ones(1, dtype=torch.float64)
        if node.op == "call_method":
            return 0.0
        rest = {name: value for name, value in node.kwargs.items() if name == "negative_slope"}
        more = [] if module is not None else list(node.args[1:2])
        return -cast(Any, function)(minus, *more, **rest).item()


def _plain(module: nn.Module | None, fill: float | None) -> nn.Module:
    """A copy of a layer without bias in float64, its weights as they are or all `fill`."""
    import copy

    assert module is not None
    copied = copy.deepcopy(module).double()
    with torch.no_grad():
        if fill is not None:
            cast(Tensor, copied.weight).fill_(fill)
        if copied.bias is not None:
            cast(Tensor, copied.bias).zero_()
    return copied


def _run(node: fx.Node, module: nn.Module | None, values: dict[fx.Node, Tensor]) -> Tensor:
    def value(one: fx.Node) -> Any:
        if one not in values:
            raise InputError(
                f"'{node.name}' depends on '{one.name}', which is not a tensor of units.", "Write sizes as numbers."
            )
        return values[one]

    args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)  # type: ignore[misc]
    with torch.no_grad():
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return cast(Any, module if module is not None else node.target)(*args, **kwargs)


def _unroll(units: _Units, output: int) -> TreeNetwork:
    """Vertices are paths to the output: every unit is copied once for each way out."""
    parent, depth, edge, unit = [-1], [0], [-1], [units.last + output]
    leaves: list[int] = []
    coordinate: list[int] = []
    vertex = 0
    while vertex < len(unit):
        here = unit[vertex]
        if here == BIAS or here < units.inputs:
            leaves.append(vertex)
            coordinate.append(here)
        else:
            for source, number in units.into[here]:
                parent.append(vertex)
                depth.append(depth[vertex] + 1)
                edge.append(number)
                unit.append(source)
        vertex += 1
    edges = np.array(edge)
    sign = np.where(units.weights[edges] < 0, -1.0, 1.0) if len(units.weights) else np.ones(len(edges))
    sign[0] = 1.0
    along = np.ones(len(unit))
    for at in range(1, len(unit)):
        along[at] = along[parent[at]] * sign[at]
    slope = np.array([1.0 if one == BIAS else units.slopes[one] for one in unit])
    names = tuple("1" if one == BIAS else units.names[one] for one in unit)
    at = np.array(leaves, int)
    return TreeNetwork(
        np.array(parent), np.array(depth), sign, slope, edges, at, np.array(coordinate, int), along[at], names, units
    )
