"""Which channels the outputs depend on, given the weights' exact zeros."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, fx

from gracile.channels.records import Layer, Values, Var
from gracile.channels.sizes import Labels
from gracile.channels.structure import Structure

# A part without channels is left out of these.
JOINS = (torch.cat, torch.concat, torch.concatenate)


@dataclass(eq=False)
class Liveness:
    """What must stay.

    Attributes:
        classes: per class of labels, whether it must stay.
        nonzero: per reading layer, (outputs, inputs), whether any weight between the two is not zero.
        needed: as `nonzero`, without the inputs that are constants the layer's bias can take over.
        values: per tensor, which of its channels are constant; only those where that is known.
        labels: label to class.
        held: classes that nothing needs, but of which a tensor's readers need one.
    """

    classes: np.ndarray
    nonzero: dict[Layer, np.ndarray]
    needed: dict[Layer, np.ndarray]
    values: dict[Var, Values]
    labels: np.ndarray
    held: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    def kept(self, labels: Labels) -> np.ndarray:
        """Per slice with these labels, whether it stays."""
        return self.classes[self.labels[labels]]

    def count(self, labels: Labels) -> int:
        """How many of these slices stay."""
        return int(np.count_nonzero(self.kept(labels)))

    def read(self, layer: Layer) -> tuple[Tensor, Tensor] | None:
        """What a layer reads: per input its number and whether it is constant; None where nothing is known."""
        values = self.values.get(layer.source)
        if values is None or layer.inputs is None or layer.groups is not None:
            return None
        return values.along(len(layer.inputs[1]))

    def made(self, layer: Layer) -> Tensor | None:
        """Per output of a layer whether it is constant; None where nothing is known."""
        values = self.values.get(layer.result) if layer.result is not None else None
        found = values.along(len(layer.outputs[1])) if values is not None else None
        return None if found is None else found[1]


def analyse(graph: Structure, zero: Tensor | None = None) -> Liveness:
    """Find the channels that must stay: those from which an output can be reached through non-zero weights.

    A channel goes when every weight that reads it is zero or belongs to a filter that itself goes, and also when it is constant and each
    of its readers can take the constant into its bias exactly.

    Args:
        graph: of the model whose current weights are looked at.
        zero: (groups,) of bool: suppose these groups zero too.
    """
    nonzero = _nonzero(graph, zero)
    values = _constants(graph, zero) if _constants_possible(graph, nonzero) else {}
    live = Liveness(np.empty(0, bool), nonzero, dict(nonzero), values, graph.labels)
    for layer in graph.readers:
        read = live.read(layer)
        if read is not None:
            free = read[1] if layer.folds else read[1] & (read[0] == 0)
            if bool(free.any()):
                live.needed[layer] = nonzero[layer] & ~free.cpu().numpy()
    paired = [
        None if one.paired is None else one.paired(graph.labels, live.nonzero, live.values) for one in graph.blocks
    ]
    live.classes = _reach(graph, live.needed, graph.pinned, paired)
    while len(held := _cannot_be_empty(graph, live)):
        live.held = np.append(live.held, held)
        live.classes[held] = True
        live.classes = _reach(graph, live.needed, live.classes, paired)
    return live


def _cannot_be_empty(graph: Structure, live: Liveness) -> np.ndarray:
    """One class of each tensor that has none left, but is read by what can neither go with it nor become a constant.

    Recurrent layers, and whatever asks for its size, are such readers; so is all of a forward that cannot be written anew.
    """
    empty = [step for step in graph.steps if step.vars and all(is_gone(one, live) for one in step.vars)]
    if not empty:
        return np.empty(0, np.int64)
    fold = folded(graph, live)
    computed = fold.needed - fold.constant - fold.gone
    stuck = [
        step
        for step in empty
        if graph.written or any(one in computed and one.target not in JOINS for one in step.node.users)
    ]
    dims = (labels for step in stuck for one in step.vars for labels in one.dims if labels is not None)
    return np.asarray([graph.labels[labels[0]] for labels in dims if not live.kept(labels).any()], np.int64)


@dataclass(eq=False)
class Folded:
    """What a layer without inputs leaves behind.

    Attributes:
        gone: nodes of which no channel stays.
        constant: nodes behind such a layer whose every remaining channel is a constant.
        biases: names of layers that take constants into their bias.
        needed: nodes that are still computed or copied.
    """

    gone: set[fx.Node]
    constant: set[fx.Node]
    biases: set[str]
    needed: set[fx.Node]


def is_gone(var: Var, live: Liveness) -> bool:
    """Whether a dimension of a tensor has no channel left."""
    return any(labels is not None and not live.kept(labels).any() for labels in var.dims)


def folded(graph: Structure, live: Liveness) -> Folded:
    """Nodes that need not be computed, and layers whose bias changes, when only `live` channels stay."""
    result = Folded(set(), set(), set(), set())
    everything = bool(live.classes.all())
    for step in graph.steps:
        if everything:
            break
        if step.vars and step.node.op != "output":
            if all(is_gone(one, live) for one in step.vars):
                result.gone.add(step.node)
            elif (
                len(step.vars) == 1
                and any(node in result.gone or node in result.constant for node in step.operands)
                and _all_constant(step.vars[0], live)
                and not graph.counted(step.vars[0])
            ):
                result.constant.add(step.node)
        for layer in step.layers:
            if layer.inputs is None or not layer.folds or step.node in result.gone | result.constant:
                continue
            read = live.read(layer)
            removed = ~live.kept(layer.inputs[1])
            if read is not None and removed.any():
                taken = removed & ((read[0] != 0) & read[1]).cpu().numpy()
                if live.nonzero[layer][live.kept(layer.outputs[1])][:, taken].any():
                    result.biases.add(layer.name)
    waiting = [step.node for step in graph.steps if step.node.op == "output"]
    while waiting:
        node = waiting.pop()
        if node not in result.needed and node not in result.gone:
            result.needed.add(node)
            if node not in result.constant:
                waiting.extend(node.all_input_nodes)
    if graph.written:  # the model's own forward computes all it did
        result.needed = set(graph.by_node)
        result.gone.clear()
        result.constant.clear()
    return result


def _all_constant(var: Var, live: Liveness) -> bool:
    values = live.values.get(var)
    if values is None:
        return False
    known = values.known.cpu().numpy()
    for axis, labels in enumerate(var.dims):
        if labels is not None:
            known = known.compress(live.kept(labels), axis)
    return bool(known.all())


def _nonzero(graph: Structure, zero: Tensor | None) -> dict[Layer, np.ndarray]:
    """Per reading layer, which (output, input) pairs are joined by a weight that is not zero."""
    found = {}
    with torch.no_grad():
        for layer in graph.readers:
            assert layer.inputs is not None
            joined = _joined(graph.parameter(layer.weight).detach())
            if layer.outputs[0] == 1:
                joined = joined.t()
            found[layer] = joined.cpu().numpy()
            if zero is not None:
                found[layer] = found[layer] & ~graph.chosen(layer, zero)
    return found


def _joined(weight: Tensor) -> Tensor:
    """Which kernels hold a number that is not zero; with few zeros the first of each kernel tells."""
    if weight.dim() == 2:
        return weight.ne(0)
    joined = weight[(..., *(0,) * (weight.dim() - 2))].ne(0)
    unsure = ~joined
    number = int(unsure.sum())
    if number > joined.numel() // 20:
        return weight.ne(0).flatten(2).any(2)
    if number:
        joined[unsure] = weight[unsure].ne(0).flatten(1).any(1)
    return joined


def _constants_possible(graph: Structure, nonzero: dict[Layer, np.ndarray]) -> bool:
    """Constants start at filters without weights and at padded channels; where there are none, none need be sought."""
    return graph.makes_constants or any(not joined.any(1).all() for joined in nonzero.values()) or _zero_groups(graph)


def _zero_groups(graph: Structure) -> bool:
    with torch.no_grad():
        return any(
            not bool(graph.parameter(layer.weight).detach().ne(0).flatten(1).any(1).all())
            for layer in graph.layers
            if layer.inputs is None
        )


def _constants(graph: Structure, zero: Tensor | None) -> dict[Var, Values]:
    """Carry constants through the network in the order of its operations."""
    found: dict[Var, Values] = {}
    masks = {} if zero is None else _masks(graph, zero)
    with torch.no_grad():
        for record in graph.records:
            if record.constants is None:
                continue
            operands = [_operand(graph, one, found, masks) for one in record.inputs]
            layer = record.layer
            if not record.makes_constants and not any(bool(one.known.any()) for one in operands) and layer is None:
                continue
            made = record.constants(operands)
            for var, values in zip(record.outputs, made if isinstance(made, list) else [made], strict=False):
                if values is None or not bool(values.known.any()):
                    continue
                shape = graph.shape_of(var)
                if values.known.dim() == len(shape) and all(
                    have in (1, want) for have, want in zip(values.known.shape, shape, strict=True)
                ):
                    found[var] = Values(values.value.expand(shape), values.known.expand(shape))
    return found


def _masks(graph: Structure, zero: Tensor) -> dict[str, Tensor]:
    """Per weight with slices in the chosen groups, which entries those are; broadcastable to the weight."""
    chosen = torch.cat([zero, zero.new_zeros(1)])
    masks = {name: chosen.to(index.device)[index] for name, index in graph.group_index().items()}
    return {name: mask for name, mask in masks.items() if bool(mask.any())}


def _operand(graph: Structure, var: Var, found: dict[Var, Values], masks: dict[str, Tensor]) -> Values:
    if var.changed:
        return _unknown(graph, var)
    if var in found:
        return found[var]
    if var.param is not None:
        value = graph.parameter(var.param[0]).detach()
        if var.param[0] in masks:
            value = value.masked_fill(masks[var.param[0]], 0)
        value = value.permute(var.param[1])
        return Values(value, torch.ones((), dtype=torch.bool, device=value.device).expand(value.shape))
    if var.value is not None and var.value.numel() == 1:
        return Values(var.value, torch.ones_like(var.value, dtype=torch.bool))
    return _unknown(graph, var)


def _unknown(graph: Structure, var: Var) -> Values:
    shape = graph.shape_of(var)
    return Values(graph.like.new_zeros(shape), torch.zeros(shape, dtype=torch.bool, device=graph.like.device))


def even_out(graph: Structure, alive: np.ndarray, paired: Sequence[np.ndarray | None] | None = None) -> None:
    """Let the heads of each block that stay have as many members as each other; changes `alive`.

    Args:
        graph: with blocks.
        alive: per class, whether it stays.
        paired: of each block, which members a head that stays needs; None where weights read them. Without it no more are needed than
            are alive.
    """
    for one in graph.blocks:
        alive[graph.labels[one.heads]] |= alive[graph.labels[one.members]].any(axis=1)
    for one, needed in zip(graph.blocks, paired or [None] * len(graph.blocks), strict=True):
        there, members = alive[graph.labels[one.heads]], graph.labels[one.members]
        if needed is not None:
            alive[members[needed & there[:, None]]] = True
        stays = members[there]
        if not len(stays):
            continue
        width = None if one.width is None else graph.labels[one.width]
        most = max(int(alive[stays].sum(1).max()), 1, 0 if width is None else int(alive[width].sum()))
        for row in stays:
            dead = row[~alive[row]]
            alive[dead[: most - len(row) + len(dead)]] = True
        if width is not None:
            idle = width[~alive[width]]
            alive[idle[: most - len(width) + len(idle)]] = True


def _reach(
    graph: Structure, needed: dict[Layer, np.ndarray], start: np.ndarray, paired: Sequence[np.ndarray | None]
) -> np.ndarray:
    """From the classes that must stay backwards through the layers, until nothing is added."""
    alive = start.copy()
    layers: list[tuple[Layer, np.ndarray, np.ndarray]] = []
    for layer in reversed(graph.readers):
        assert layer.inputs is not None
        layers.append((layer, graph.labels[layer.outputs[1]], graph.labels[layer.inputs[1]]))
    while True:
        before = int(alive.sum())
        for layer, outputs, inputs in layers:
            rows = alive[outputs]
            read = needed[layer].any(0) if rows.all() else needed[layer][rows].any(0)
            alive[inputs[read]] = True
        even_out(graph, alive, paired)
        if int(alive.sum()) == before:
            return alive
