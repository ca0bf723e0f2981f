"""Smaller networks on disk: one safetensors file.

It holds the weights and, as JSON in its header, the indices of what was kept.
"""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, cast

import torch
from annotated_types import Len
from pydantic import AfterValidator, ConfigDict, Field, Strict, TypeAdapter
from torch import fx, nn
from typing_extensions import TypedDict

from gracile.channels import Example, trace
from gracile.core.errors import InputError, StorageError
from gracile.core.tensor_files import header, read_tensors, reading, save_weights
from gracile.shrinking.build import Builder

FORMAT = 1
_KEY = "gracile.lean"
DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
# Elements of one sample, far beyond any that a network was traced with: what a file claims is checked before it is made.
LARGEST = 2**26

Index = Annotated[int, Field(ge=0, lt=2**31)]


def _checked(inputs: list[tuple[list[int], str]]) -> list[tuple[list[int], str]]:
    if sum(math.prod(shape) for shape, _ in inputs) > LARGEST:
        raise ValueError(f"one sample would have more than {LARGEST} elements")
    for _, dtype in inputs:
        if dtype not in DTYPES:
            raise ValueError(f"torch has no type {dtype!r}")
    return inputs


class Structure(TypedDict):
    """What `gracile.shrinking.plan.structure` tells, as a file must hold it."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # pyright: ignore[reportGeneralTypeIssues]
    inputs: Annotated[list[Annotated[tuple[list[Index], str], Strict(False)]], AfterValidator(_checked)]
    names: NotRequired[list[str]]
    kept: dict[str, dict[str, list[Index]]]
    biases: list[str]
    gathers: dict[str, list[Index]]
    constants: list[str]


class Note(TypedDict):
    """The header of a file of `save_lean`: the dense network's shapes, and each shrinking since. A network is shrunk a few times."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # pyright: ignore[reportGeneralTypeIssues]
    format: Literal[1]
    dense: dict[str, list[Index]]
    steps: Annotated[list[Structure], Len(max_length=100)]


NOTE, STRUCTURE, SHAPES = TypeAdapter(Note), TypeAdapter(Structure), TypeAdapter(dict[str, list[Index]])


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
    with reading(Path(path), "Write it again with gracile.shrinking.save_lean, or restore a copy."):
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
    made = [torch.zeros(1, *shape, dtype=DTYPES[dtype], device=device) for shape, dtype in structure["inputs"]]
    names = structure.get("names", [])
    return dict(zip(names, made, strict=True)) if names else tuple(made)


def remembered(path: str | Path) -> dict[str, list[int]]:
    """The shapes of the dense network's state that a file of `save_lean` remembers.

    Raises:
        StorageError: no such file, or not one of `save_lean`.
    """
    return _read(Path(path))[0]["dense"]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    remedy = "Write it again with gracile.shrinking.save_lean, or restore a copy."
    metadata, tensors = read_tensors(path, remedy)
    note = header(metadata, "gracile", path, remedy)
    if not isinstance(note, dict) or note.get("format") != FORMAT:
        raise StorageError(
            f"{path} holds no network that was shrunk" + (f" in format {FORMAT}." if note else "."),
            "Write it with gracile.shrinking.save_lean of this version.",
        )
    with reading(path, remedy):
        return cast(dict[str, Any], NOTE.validate_python(note)), tensors


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
