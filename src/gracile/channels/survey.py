"""What of a network could be removed at all, and what cannot and why, before any training."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from tabulate import tabulate
from torch import nn

from gracile.channels.graph import ChannelGraph
from gracile.channels.records import Layer
from gracile.channels.tracing import Example, trace


@dataclass(frozen=True)
class SurveyRow:
    """One layer.

    Attributes:
        layer: its name.
        inputs: (removable, all) channels it reads.
        outputs: (removable, all) channels it makes.
        parameters: numbers in its weight.
        reason: why channels of it stay; the most frequent reason.
    """

    layer: str
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    parameters: int
    reason: str


@dataclass(frozen=True)
class Survey:
    """What `survey` found.

    Attributes:
        groups: channels that training can remove.
        parameters: share in [0, 1] of the network's parameters that are not among channels that must stay.
        macs: likewise of its multiply-adds.
        rows: one a layer.
        missing: operations without a rule, with the lines of code they are at; what they work on stays.
        written: why sizes written into the model's code cannot be corrected; empty where they can.
    """

    groups: int
    parameters: float
    macs: float
    rows: tuple[SurveyRow, ...]
    missing: dict[str, list[str]]
    written: str

    def describe(self) -> str:
        """A table of the layers, the shares, and all operations without a rule."""
        table = [
            {
                "layer": row.layer,
                "inputs removable": f"{row.inputs[0]:,} of {row.inputs[1]:,}",
                "outputs removable": f"{row.outputs[0]:,} of {row.outputs[1]:,}",
                "weights": f"{row.parameters:,}",
                "why others stay": row.reason,
            }
            for row in self.rows
        ]
        lines = [
            tabulate(table, headers="keys", tablefmt="github"),
            "",
            f"{self.groups:,} groups; {self.parameters:.1%} of the parameters and {self.macs:.1%} of the multiply-adds can be removed.",
        ]
        for name, places in self.missing.items():
            lines.append(f"No rule for '{name}', at {', '.join(dict.fromkeys(places))}.")
        if self.written:
            lines.append(f"Channels whose number the code names stay, as no forward can be generated: {self.written}.")
        return "\n".join(lines)


def survey(model: nn.Module, example: Example) -> Survey:
    """Say what share of a network can be removed, what must stay and why, and which operations have no rule, all at once.

    Args:
        model: any module; not changed, its weights do not matter.
        example: as for `trace`.

    Raises:
        InputError: as `trace` does.
    """
    return of_graph(trace(model, example))


def of_graph(graph: ChannelGraph) -> Survey:
    """The survey of a traced model."""
    numbers, left = 0, 0
    macs, macs_left = 0, 0
    positions, positions_left = Counter[str](), Counter[str]()
    for layer in graph.layers:
        positions[layer.weight] += layer.positions
        positions_left[layer.weight] += layer.positions_left(lambda labels: _held(graph, labels))
    for name, parameter in graph.model.named_parameters():
        shape = list(parameter.shape)
        for dim, labels in graph.tensors.get(name, {}).items():
            shape[dim] = _held(graph, labels)
        numbers += parameter.numel()
        left += math.prod(shape)
        macs += parameter.numel() * positions[name]
        macs_left += math.prod(shape) * positions_left[name]
    return Survey(
        graph.num_groups,
        1 - left / numbers if numbers else 0.0,
        1 - macs_left / macs if macs else 0.0,
        tuple(_row(graph, layer) for layer in graph.layers),
        graph.missing,
        graph.written,
    )


def _held(graph: ChannelGraph, labels: np.ndarray) -> int:
    return int(np.count_nonzero(graph.pinned[graph.labels[labels]]))


def _row(graph: ChannelGraph, layer: Layer) -> SurveyRow:
    reasons: Counter[str] = Counter()

    def side(labels: np.ndarray | None) -> tuple[int, int]:
        if labels is None:
            return 0, 0
        classes = graph.labels[labels]
        held = graph.pinned[classes]
        reasons.update(graph.reasons[int(one)] for one in classes[held])
        return int(np.count_nonzero(~held)), len(labels)

    inputs, outputs = side(layer.inputs[1] if layer.inputs is not None else None), side(layer.outputs[1])
    reason = reasons.most_common(1)[0][0] if reasons else ""
    return SurveyRow(layer.name, inputs, outputs, graph.parameter(layer.weight).numel(), reason)
