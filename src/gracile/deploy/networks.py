"""Networks to compress or attack: with their weights, their dense twin and their data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError
from gracile.core.tensor_files import load_weights
from gracile.core.user_code import imported, is_reference, load_name, taken
from gracile.data import Splits, batches

SAVE = "Save the state dict with safetensors.torch.save_file; pickles are not read."
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
        load_weights(model, weights, SAVE)
    example = next(batches(data.train, 2))[0] if data is not None else torch.zeros(2, *(shape or ()))
    return Candidate(
        reference.rpartition(":")[2], model, example, dense, data, MEANINGLESS if dense and data is not None else ""
    )


def _made(reference: str, data: Splits | None) -> nn.Module:
    return made(reference, {} if data is None else known_of(data)).cpu()


def known_of(data: Splits) -> dict[str, Any]:
    """What data fix of a network: ``num_classes``, and ``in_features`` or ``in_channels`` and ``image_size``."""
    shape = data.train.input_shape
    inputs = {"in_features": shape[0]} if len(shape) == 1 else {"in_channels": shape[0], "image_size": shape[1:]}
    return {"num_classes": data.train.num_classes, **inputs}


def made(reference: str, known: Mapping[str, Any], options: Mapping[str, Any] | None = None) -> nn.Module:
    """What a user's function gives.

    Args:
        reference: ``FILE.py:FUNCTION`` or ``package.module:FUNCTION``; the code is run.
        known: of which it is given what it takes by name.
        options: what it is given besides.

    Raises:
        InputError: no such function, it fails, or what it returns is no module.
    """
    make = load_name(reference) if is_reference(reference) else imported(reference)
    if not callable(make):
        raise InputError(f"{reference} is a {type(make).__name__}.", "Name a function that returns the network.")
    try:
        model = make(**taken(make, known), **(options or {}))
    except Exception as error:
        asked = f"with {', '.join(known)} as far as it takes them" if known else "without arguments"
        remedy = f"It is called {asked}, and returns the network."
        raise InputError(f"{reference} failed: {type(error).__name__}: {error}.", remedy) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{reference} returned {type(model).__name__}.", "Return a torch.nn.Module.")
    return model
