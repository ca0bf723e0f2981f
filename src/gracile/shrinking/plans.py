"""Plans as files: made on one machine, read by people, applied to another copy of the model."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gracile.channels import trace
from gracile.core.errors import InputError, StorageError
from gracile.core.files import write_text
from gracile.core.tensor_files import reading
from gracile.shrinking.build import Builder
from gracile.shrinking.lean import SHAPES, STRUCTURE, example_of, fits, remember, shapes
from gracile.shrinking.plan import Plan, resumed, structure
from gracile.shrinking.shrink import fill

FORMAT = 1


def save_plan(made: Plan, path: str | Path) -> None:
    """Write a plan as JSON: the model's shapes, and for each tensor that is cut the indices that stay.

    Args:
        made: by `plan`.
        path: the file; replaced if there is one.

    Raises:
        StorageError: the file cannot be written.
    """
    note = {
        "format": FORMAT,
        "dense": shapes(made.graph.model),
        "structure": structure(made),
        "table": made.describe().splitlines(),
    }
    write_text(Path(path), json.dumps(note, indent=1) + "\n")


def read_plan(path: str | Path) -> dict[str, Any]:
    """Read a file of `save_plan`.

    Raises:
        StorageError: no such file, or not one of `save_plan`.
    """
    path = Path(path)
    if not path.is_file():
        raise StorageError(f"There is no file {path}.", "Check the path.")
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StorageError(f"{path} cannot be read: {error}.", "Write it again with save_plan.") from error
    if not isinstance(note, dict) or note.get("format") != FORMAT or "structure" not in note:
        raise StorageError(f"{path} holds no plan.", "Write it with gracile.shrinking.save_plan of this version.")
    with reading(path, "Write it again with save_plan."):
        SHAPES.validate_python(note["dense"])
        STRUCTURE.validate_python(note["structure"])
    return note


def apply_plan(model: nn.Module, source: str | Path | Plan) -> nn.Module:
    """Cut a copy of a model as a plan says, whatever its weights are.

    The outputs stay what they are where the channels removed are zero or constant in this copy too, as they are in the model the plan
    was made for; otherwise this prunes, and what comes back is to be trained further. Constants are moved into biases by the numbers of
    this copy.

    Args:
        model: of the same architecture; not changed.
        source: the plan, or its file.

    Returns:
        The smaller network, as `shrink` gives it, in the mode and on the device of the model.

    Raises:
        StorageError: no such file, or not one of `save_plan`.
        InputError: the plan belongs to another architecture.
    """
    note = (
        {"dense": shapes(source.graph.model), "structure": structure(source)}
        if isinstance(source, Plan)
        else read_plan(source)
    )
    name = "The plan" if isinstance(source, Plan) else str(source)
    fits(model, note["dense"], name)
    shape = note["structure"]
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    graph = trace(model, example_of(shape, device))
    known = {layer.name for layer in graph.layers}
    unknown = [layer for layer in shape["biases"] if layer not in known]
    if unknown:
        raise InputError(
            f"{name} speaks of a layer '{unknown[0]}', which this model has not.", "Build the model as it was."
        )
    with (
        contextlib.nullcontext()
        if isinstance(source, Plan)
        else reading(Path(source), "Write it again with save_plan.")
    ):
        builder = Builder(graph, shape)
        lean = builder.build()
        fill(lean, resumed(graph, builder.alive, shape))
    remember(lean, model, shape)
    return lean
