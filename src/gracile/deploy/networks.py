"""Networks to compress or attack: with their weights, their dense twin and their data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from gracile.core.errors import InputError, StorageError
from gracile.core.user_code import load_name, taken
from gracile.data import Splits, batches

MEANINGLESS = "the dense network has the weights its function gives it, so its accuracy means nothing"


@dataclass(frozen=True, eq=False)
class Candidate:
    """A network with what belongs to it.

    Attributes:
        name: of the arm or function; also its folder's name.
        model: with exact zeros where it is sparse.
        example: (2, ...) inputs.
        dense: its twin without zeros, if there is one.
        data: its data, if there are any.
        note: what a reader must know.
    """

    name: str
    model: nn.Module
    example: Tensor
    dense: nn.Module | None = None
    data: Splits | None = None
    note: str = ""


def from_file(
    reference: str, *, weights: Path | None = None, data: Splits | None = None, shape: tuple[int, ...] | None = None
) -> Candidate:
    """A network that a user's function returns.

    The function is called with those of `num_classes`, `in_channels` and `image_size`, or `in_features`, that it takes by name, as
    the data have them; without data it is called without arguments.

    Args:
        reference: ``FILE.py:FUNCTION``. The file is executed.
        weights: a safetensors file laid over the network's own weights; the dense twin keeps its own.
        data: the network's data.
        shape: of one input, where there are no data.

    Raises:
        InputError: inputs are given twice or not at all; the file, function, weights or shape cannot be used.
        StorageError: the weights cannot be read.
    """
    if (data is None) == (shape is None):
        raise InputError(
            "The network's inputs are given twice." if data else "Nothing tells the network's inputs.",
            "Pass either data=, or the shape= of one input, such as 3,32,32.",
        )
    model = _made(reference, data)
    dense = None
    if weights is not None:
        dense = _made(reference, data)
        load_weights(model, weights)
    example = next(batches(data.train, 2))[0] if data is not None else torch.zeros(2, *(shape or ()))
    return Candidate(
        reference.rpartition(":")[2], model, example, dense, data, MEANINGLESS if dense and data is not None else ""
    )


def load_weights(network: nn.Module, file: Path) -> None:
    """Lay a file's weights over a network's.

    Raises:
        StorageError: there is no such file, or it is no safetensors file.
        InputError: the weights are another network's.
    """
    state = _read(file)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise InputError(
            f"The weights in {file} do not fit the network: {lines[min(1, len(lines) - 1)]}",
            "Use the network they were saved from.",
        ) from error


def weight_names(file: Path) -> list[str]:
    """The names of a file's weights.

    Raises:
        StorageError: there is no such file, or it is no safetensors file.
    """
    return list(_read(file))


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise StorageError(f"There is no file {file}.", "Give its path as seen from the working directory.")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise StorageError(
            f"{file} is not a safetensors file: {error}.",
            "Save the state dict with safetensors.torch.save_file; pickles are not read.",
        ) from error


def _made(reference: str, data: Splits | None) -> nn.Module:
    make = load_name(reference)
    if not callable(make):
        raise InputError(f"{reference} is a {type(make).__name__}.", "Name a function that returns the network.")
    known: dict[str, Any] = {}
    if data is not None:
        shape = data.train.input_shape
        known["num_classes"] = data.train.num_classes
        known |= {"in_features": shape[0]} if len(shape) == 1 else {"in_channels": shape[0], "image_size": shape[1:]}
    try:
        network = make(**taken(make, known))
    except Exception as error:
        asked = (
            f"It is called with {', '.join(known)} as far as it takes them"
            if known
            else "It is called without arguments"
        )
        raise InputError(
            f"{reference} failed: {type(error).__name__}: {error}.", f"{asked}, and returns the network."
        ) from error
    if not isinstance(network, nn.Module):
        raise InputError(f"{reference} returned {type(network).__name__}.", "Return a torch.nn.Module.")
    return network.cpu()
