"""Which channels the outputs depend on, given the weights' exact zeros."""

from __future__ import annotations

from collections.abc import Sequence
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

    A channel goes when every weight that reads it is zero or belongs to a filter that itself goes, and also when it is constant
    and each of its readers can take the constant into its bias exactly.

    Args:
        graph: of the model whose current weights are looked at.
        zero: (groups,) of bool: suppose exactly these groups zero and every other weight not.
    """
    nonzero = _nonzero(graph, zero)
    values = _constants(graph, nonzero) if _constants_possible(graph, nonzero) else {}
    needed = dict(nonzero)
    for layer in graph.readers:
        read = values.get(graph.source[layer.node])
        if read is not None:
            free = read.known if layer.folds else read.known & (read.value == 0)
            if bool(free.any()):
                needed[layer.name] = nonzero[layer.name] & ~free.cpu().numpy()
    return Liveness(_reach(graph, needed), nonzero, needed, values, graph.labels)


def _nonzero(graph: ChannelGraph, zero: Tensor | None) -> dict[str, np.ndarray]:
    """Per reading layer, which (output, input) pairs are joined by a weight that is not zero."""
    found = {}
    with torch.no_grad():
        for layer in graph.readers:
            assert layer.inputs is not None
            if zero is None:
                weight = graph.parameter(layer.weight).detach()
                joined = weight.ne(0)
                if weight.dim() > 2:
                    joined = joined.flatten(2).any(2)
                if layer.outputs[0] == 1:
                    joined = joined.t()
                found[layer.name] = joined.cpu().numpy()
            else:
                gone = np.append(zero.cpu().numpy(), False)[graph.groups_of(layer.inputs[1])]
                found[layer.name] = np.broadcast_to(~gone, (len(layer.outputs[1]), len(gone)))
    return found


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


def _constants(graph: ChannelGraph, nonzero: dict[str, np.ndarray]) -> dict[str, Values]:
    """Carry constants through the network in the order of its nodes."""
    found: dict[fx.Node, Values] = {}
    for step in graph.steps:
        if step.slots is None and step.constants is None:
            continue
        operands = [found.get(node) for node in step.operands]
        size = len(step.slots.labels) if step.slots is not None else 1
        unknown = [
            graph.unknown(node) if values is None else values
            for node, values in zip(step.operands, operands, strict=True)
        ]
        values = _result(step.constants, unknown)
        if values is not None and len(values.known) == size and bool(values.known.any()):
            found[step.node] = values
    return {node.name: values for node, values in found.items()}


def _result(function: object, operands: Sequence[Values]) -> Values | None:
    return function(operands) if callable(function) else None


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
