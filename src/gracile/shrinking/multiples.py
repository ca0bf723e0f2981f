"""Numbers of channels that hardware likes: rounded up to multiples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import numpy as np

from gracile.channels import ChannelGraph
from gracile.channels.liveness import Liveness, even_out
from gracile.channels.records import Layer
from gracile.channels.sizes import Labels
from gracile.core.errors import InputError, nearest

Multiple: TypeAlias = int | Mapping[str, int]
KINDS = ("conv", "linear")
# onnxruntime computes convolutions on channels laid out in blocks, many times as fast as otherwise, and takes into that layout only
# those whose channels are a multiple of four.
BLOCK = 4


def round_up(graph: ChannelGraph, live: Liveness, multiple_of: Multiple) -> None:
    """Keep some more of the channels that could go, until each layer reads and makes a multiple of so many.

    A layer that has fewer channels altogether keeps what it has. What no weight reads may hold any number, so the outputs stay exact.

    Args:
        graph: of the model.
        live: what must stay; its `classes` are added to.
        multiple_of: a number, or one for each of the kinds ``conv`` and ``linear``.

    Raises:
        InputError: not a positive whole number, or no such kind.
    """
    wanted: dict[str, int] = dict.fromkeys(KINDS, multiple_of) if isinstance(multiple_of, int) else dict(multiple_of)
    for kind, number in wanted.items():
        if kind not in KINDS:
            raise InputError(f"There is no kind of layer '{kind}'.", nearest(kind, KINDS))
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise InputError(f"multiple_of={number!r} is no multiple.", "Give a positive whole number such as 8.")
    if all(number == 1 for number in wanted.values()):
        return
    changed = True
    while changed:
        changed = False
        for layer in graph.layers:
            number = wanted.get(_kind(graph, layer), 1)
            for labels in _sides(layer):
                changed |= _round(live, labels, number)
        even_out(graph, live.classes)


def _kind(graph: ChannelGraph, layer: Layer) -> str:
    return "linear" if graph.parameter(layer.weight).dim() == 2 else "conv"


def _sides(layer: Layer) -> Iterator[Labels]:
    yield layer.outputs[1]
    if layer.inputs is not None:
        yield layer.inputs[1]


def _round(live: Liveness, labels: Labels, number: int) -> bool:
    kept = live.kept(labels)
    have = int(kept.sum())
    if not have or have % number == 0 or kept.all():
        return False
    classes, places = np.unique(live.labels[labels[~kept]], return_counts=True)
    for one, size in zip(classes, places, strict=True):  # a class may hold several slices, as behind a flatten
        live.classes[one] = True
        have += int(size)
        if have % number == 0:
            break
    return True
