"""Networks to compress or attack: with their weights, their dense twin and their data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError
from gracile.core.tensor_files import SAVE, load_weights
from gracile.core.user_code import known_of, made
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

    The function is called with those of `num_classes`, `in_channels` and `image_size`, the pair (height, width), or `in_features`,
    that it takes by name, as the data have them; without data with those that `shape` fixes, all but `num_classes`.

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
    known = known_of(shape or ()) if data is None else known_of(data.train.input_shape, data.train.num_classes)
    model, dense = made(reference, known).cpu(), None
    if weights is not None:
        dense = made(reference, known).cpu()
        load_weights(model, weights, SAVE)
    example = next(batches(data.train, 2))[0] if data is not None else torch.zeros(2, *(shape or ()))
    return Candidate(
        reference.rpartition(":")[2], model, example, dense, data, MEANINGLESS if dense and data is not None else ""
    )
