"""Smaller networks on disk: one safetensors file.

It holds the weights and, as JSON in its header, the indices of what was kept.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import fx, nn

from gracile.channels import Example, trace
from gracile.core.errors import InputError, StorageError
from gracile.core.weights import save_weights
from gracile.shrinking.build import Builder

FORMAT = 1
_KEY = "gracile.lean"


def remember(lean: nn.Module, model: nn.Module, structure: dict[str, Any]) -> None:
    """Note on the smaller network how it came from `model`, which may itself have been shrunk before."""
    earlier = recall(model)
    note = copy.deepcopy(earlier) if earlier else {"dense": shapes(model), "steps": []}
    note["steps"].append(structure)
    # A GraphModule's deep copy keeps its `meta` only, a plain module's all its attributes.
    if isinstance(lean, fx.GraphModule):
        lean.meta[_KEY] = note
    else:
        lean.__dict__[_KEY] = note


def recall(model: nn.Module) -> dict[str, Any] | None:
    """How a network was shrunk; None for one that was not."""
    return model.meta.get(_KEY) if isinstance(model, fx.GraphModule) else model.__dict__.get(_KEY)


def shapes(model: nn.Module) -> dict[str, list[int]]:
    """The shape of each entry of a model's state."""
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def save_lean(model: nn.Module, path: str | Path) -> None:
    """Write a network made by `shrink` to one safetensors file.

    Args:
        model: the smaller network, trained further or not.
        path: the file; replaced if there is one.

    Raises:
        InputError: the network was not made by `shrink`.
        StorageError: the file cannot be written.
    """
    note = recall(model)
    if note is None:
        raise InputError(
            f"This {type(model).__name__} was not made by shrink.", "Save a plain network with safetensors or torch."
        )
    save_weights(model, Path(path), {"gracile": json.dumps({"format": FORMAT, **note}, separators=(",", ":"))})


def load_lean(dense_model: nn.Module, path: str | Path) -> nn.Module:
    """Build the smaller network of a file from a dense one of the same architecture.

    Args:
        dense_model: built as before it was shrunk; its weights do not matter; not changed.
        path: a file written by `save_lean`.

    Returns:
        The smaller network with the file's weights, on the dense model's device and in its mode.

    Raises:
        StorageError: no such file, or not one of `save_lean`.
        InputError: the file belongs to another architecture.
    """
    note, tensors = _read(Path(path))
    fits(dense_model, note["dense"], str(path))
    model = dense_model
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    for structure in note["steps"]:
        smaller = Builder(trace(model, example_of(structure, device)), structure).build()
        remember(smaller, model, structure)
        model = smaller
    expected = shapes(model)
    found = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        raise InputError(
            f"{path} does not fit this architecture: {_first(expected, found)}.", "Build the model as it was."
        )
    model.load_state_dict(tensors)
    return model


def example_of(structure: dict[str, Any], device: torch.device) -> Example:
    """Inputs of the shapes and types that a structure remembers."""
    made = [torch.zeros(1, *shape, dtype=getattr(torch, dtype), device=device) for shape, dtype in structure["inputs"]]
    names = structure.get("names", [])
    return dict(zip(names, made, strict=True)) if names else tuple(made)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    if not path.is_file():
        raise StorageError(f"There is no file {path}.", "Check the path.")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("gracile")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
        note = json.loads(header) if header else None
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise StorageError(f"{path} cannot be read: {error}.", "Write it again with save_lean.") from error
    if not isinstance(note, dict) or note.get("format") != FORMAT:
        raise StorageError(
            f"{path} holds no network that was shrunk" + (f" in format {FORMAT}." if note else "."),
            "Write it with gracile.shrinking.save_lean of this version.",
        )
    return note, tensors


def fits(model: nn.Module, dense: dict[str, list[int]], name: str) -> None:
    """Raise an `InputError` unless a model has the shapes that were remembered."""
    found = shapes(model)
    if found != dense:
        raise InputError(
            f"{name} belongs to another architecture: {_first(found, dense)}.",
            "Build the dense model exactly as it was before it was shrunk.",
        )


def _first(model: dict[str, list[int]], file: dict[str, list[int]]) -> str:
    for name in [*model, *file]:
        if model.get(name) != file.get(name):
            return f"'{name}' is {model.get(name, 'absent')} in the model and {file.get(name, 'absent')} in the file"
    return "the order of tensors differs"
