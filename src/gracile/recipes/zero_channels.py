"""How many input channels are zero in some of a trained arm's layers, so that criteria can speak of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from gracile.core.errors import InputError, nearest


def zero_channels(file: Path, asked: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Percent of input channels whose weights are all exactly zero, over the layers asked for together.

    Args:
        file: the ``layers.json`` of a trained arm.
        asked: what a set of layers is called, and their names; that of a module stands for all layers inside it.

    Returns:
        One number a set, by the name ``zero_channels_SET``.

    Raises:
        InputError: a name is of no layer.
    """
    norms = {row["name"]: row["norms"] for row in json.loads(file.read_text(encoding="utf-8"))["layers"]}
    found = {}
    for name, layers in asked.items():
        counted = []
        for layer in layers:
            inside = [one for one in norms if one == layer or one.startswith(f"{layer}.")]
            if not inside:
                raise InputError(f"There is no layer '{layer}' in {file}.", nearest(layer, norms))
            counted += [norm for one in inside for norm in norms[one]]
        found[f"zero_channels_{name}"] = 100 * counted.count(0) / len(counted)
    return found
