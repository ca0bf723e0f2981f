"""Which channels the outputs depend on, given the weights' exact zeros."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, fx

from gracile.channels.op import Labels, Layer, Values

if TYPE_CHECKING:
    from gracile.channels.graph import ChannelGraph


@dataclass(eq=False)
class Liveness:
    """What must stay.

    Attributes:
        classes: per class of labels, whether it must stay.
        nonzero: per reading layer, (outputs, inputs), whether any weight between the two is not zero.
        needed: as `nonzero`, without the inputs that are constants the layer's bias can take over.
        values: per fx node name, which of its channels are constant; only nodes where that is known.
    """

    classes: np.ndarray
    nonzero: dict[str, np.ndarray]
    needed: dict[str, np.ndarray]
    values: dict[str, Values]
    labels: np.ndarray

    def kept(self, labels: Labels) -> np.ndarray:
        """Per slice with these labels, whether it stays."""
        return self.classes[self.labels[labels]]

    def count(self, labels: Labels) -> int:
        """How many of these slices stay."""
        return int(np.count_nonzero(self.kept(labels)))


def analyse(graph: ChannelGraph, zero: Tensor | None = None) -> Liveness:
    """Find the channels that must stay: those from which an output can be reached through non-zero weights.

    A channel goes when every weight that reads it is zero or belongs to a filter that itself goes, and also when it
    is constant
    and each of its readers can take the constant into its bias exactly.

    Args:
        graph: of the model whose current weights are looked at.
        zero: (groups,) of bool: suppose these groups zero too.
    """
    nonzero = _nonzero(graph, zero)
    values = _constants(graph, zero) if _constants_possible(graph, nonzero) else {}
    needed = dict(nonzero)
    for layer in graph.readers:
        read = values.get(graph.source[layer.node])
        if read is not None:
            free = read.known if layer.folds else read.known & (read.value == 0)
            if bool(free.any()):
                needed[layer.name] = nonzero[layer.name] & ~free.cpu().numpy()
    return Liveness(_reach(graph, needed), nonzero, needed, values, graph.labels)


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


def folded(graph: ChannelGraph, live: Liveness) -> Folded:
    """Nodes that need not be computed, and layers whose bias changes, when only `live` channels stay."""
    result = Folded(set(), set(), set(), set())
    for step in graph.steps:
        slots = step.slots
        if step.parts is not None and not any(live.kept(part.labels).any() for part in step.parts):
            result.gone.add(step.node)
        if slots is None:
            continue
        kept = live.kept(slots.labels)
        if not kept.any():
            result.gone.add(step.node)
        elif any(node in result.gone or node in result.constant for node in step.operands):
            values = live.values.get(step.node.name)
            if values is not None and values.known.cpu().numpy()[kept].all():
                result.constant.add(step.node)
        layer = step.layer
        if (
            layer is not None
            and layer.inputs is not None
            and step.node not in result.gone | result.constant
            and layer.folds
        ):
            values = live.values.get(graph.source[layer.node])
            removed = ~live.kept(layer.inputs[1])
            if values is not None and removed.any():
                taken = removed & (values.value != 0).cpu().numpy() & values.known.cpu().numpy()
                if live.nonzero[layer.name][kept][:, taken].any():
                    result.biases.add(layer.name)
    waiting = [step.node for step in graph.steps if step.node.op == "output"]
    while waiting:
        node = waiting.pop()
        if node not in result.needed and node not in result.gone:
            result.needed.add(node)
            if node not in result.constant:
                waiting.extend(node.all_input_nodes)
    return result


def _nonzero(graph: ChannelGraph, zero: Tensor | None) -> dict[str, np.ndarray]:
    """Per reading layer, which (output, input) pairs are joined by a weight that is not zero."""
    found = {}
    with torch.no_grad():
        for layer in graph.readers:
            assert layer.inputs is not None
            weight = graph.parameter(layer.weight).detach()
            joined = _joined(weight)
            if layer.outputs[0] == 1:
                joined = joined.t()
            found[layer.name] = joined.cpu().numpy()
            if zero is not None:
                found[layer.name] = found[layer.name] & ~graph.chosen(layer, zero)
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


def _constants_possible(graph: ChannelGraph, nonzero: dict[str, np.ndarray]) -> bool:
    """Constants start at filters without weights and at padded channels; where there are none, none need be sought."""
    return graph.makes_constants or any(not joined.any(1).all() for joined in nonzero.values()) or _zero_groups(graph)


def _zero_groups(graph: ChannelGraph) -> bool:
    with torch.no_grad():
        return any(
            not bool(graph.parameter(layer.weight).detach().ne(0).flatten(1).any(1).all())
            for layer in graph.layers
            if layer.inputs is None
        )


def _constants(graph: ChannelGraph, zero: Tensor | None) -> dict[str, Values]:
    """Carry constants through the network in the order of its nodes."""
    found: dict[fx.Node, Values] = {}
    for step in graph.steps:
        if step.constants is None:
            continue
        operands = [found[node] if node in found else graph.unknown(node) for node in step.operands]
        if zero is not None and step.layer is not None and step.layer.inputs is not None:
            # An input whose weights are supposed zero is as good as one that is constantly zero.
            chosen = torch.as_tensor(graph.chosen(step.layer, zero), device=operands[0].known.device)
            operands = [Values(operands[0].value.masked_fill(chosen, 0), operands[0].known | chosen)]
        values = step.constants(operands)
        size = len(step.slots.labels) if step.slots is not None else 1
        if values is not None and len(values.known) == size and bool(values.known.any()):
            found[step.node] = values
    return {node.name: values for node, values in found.items()}


def _reach(graph: ChannelGraph, needed: dict[str, np.ndarray]) -> np.ndarray:
    """From the classes that must stay backwards through the layers, until nothing is added."""
    alive = graph.pinned.copy()
    layers: list[tuple[Layer, np.ndarray, np.ndarray]] = []
    for layer in reversed(graph.readers):
        assert layer.inputs is not None
        layers.append((layer, graph.labels[layer.outputs[1]], graph.labels[layer.inputs[1]]))
    while True:
        before = int(alive.sum())
        for layer, outputs, inputs in layers:
            rows = alive[outputs]
            read = needed[layer.name].any(0) if rows.all() else needed[layer.name][rows].any(0)
            alive[inputs[read]] = True
        if int(alive.sum()) == before:
            return alive
