"""Arrays, in a file or in memory, as images or features and labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from gracile.core.errors import DataError
from gracile.data.labels import encode
from gracile.data.source import Missing, Opened, Part, check_same_shape, chunk_rows, to_features

# What pixels are scaled by, and what they were; broken numbers that reach so far are levels that were interpolated.
RANGES = {255.0: "0 to 1", 1.0: "levels 0 to 255"}
SURELY_LEVELS = 128


class Rows(Protocol):
    """An array that is read by rows.

    Attributes:
        name: its own, as a member of a file or an argument has one.
        where: where it stands, for messages.
        files: that it is read from; none in memory.
        shape: (n, ...).
        dtype: of its numbers.
    """

    @property
    def name(self) -> str: ...

    @property
    def where(self) -> str: ...

    @property
    def files(self) -> tuple[Path, ...]: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def whole(self) -> np.ndarray:
        """All of it."""
        ...

    def chunks(self, size: int) -> Iterator[np.ndarray]:
        """The array's rows, `size` at a time."""
        ...


def opened(
    name: str,
    where: str,
    inputs: Mapping[str, Rows],
    labels: Mapping[str, Rows],
    classes: tuple[str, ...] | None,
    missing: Missing,
    told: Sequence[str] = (),
) -> Opened:
    """Splits of inputs and labels as a source.

    Args:
        name: of the data set.
        where: it comes from, for messages.
        inputs: split to images (n, h, w), (n, h, w, c) or (n, c, h, w), levels from 0 to 255 or numbers from 0 to 1, or
            to numbers (n, features).
        labels: split to (n,), (n, 1), or one-hot (n, classes).
        classes: their names, where they are declared.
        missing: what becomes of empty cells.
        told: what is to be said beforehand.

    Raises:
        DataError: shapes, types or values do not fit.
    """
    said, found, parts = [*told], {}, {}
    for split, array in inputs.items():
        rows, target = array.shape[:1], labels[split]
        if not rows or target.shape[:1] != rows or len(target.shape) > 2:
            raise DataError(
                f"{where} holds inputs of shape {array.shape} and labels of shape {target.shape} for {split}.",
                "Give one class number an input.",
            )
    for split, target in labels.items():
        found[split], one_hot = _flat(target)
        said += [f"the labels of the {split} split are one-hot"] if one_hot else []
    encoded, classes, renamed = encode(found, classes, where)
    for split, array in inputs.items():
        parts[split], how = _part_of(array, encoded[split], missing)
        said += how
    check_same_shape(parts, where)
    return Opened(name, classes, parts, told=(*said, *renamed))


def _flat(target: Rows) -> tuple[np.ndarray, bool]:
    """Labels (n,), and whether they were one-hot."""
    values = target.whole()
    if values.ndim == 1 or values.shape[1] == 1:
        return values.reshape(-1), False
    if values.dtype.kind in "iufb" and ((values == 0) | (values == 1)).all() and (values.sum(axis=1) == 1).all():
        return values.argmax(axis=1), True
    raise DataError(
        f"The labels '{target.name}' of {target.where} have shape {target.shape} and are not one-hot.",
        "Give one class number an input.",
    )


def _part_of(array: Rows, labels: np.ndarray, missing: Missing) -> tuple[Part, list[str]]:
    """A split, and how its values were taken if not as they stand."""
    shape = array.shape
    if array.dtype.kind not in "iufb" or len(shape) not in (2, 3, 4):
        raise DataError(
            f"The inputs '{array.name}' of {array.where} are {array.dtype} of shape {shape}.",
            "Give images (n, h, w), (n, h, w, c) or (n, c, h, w), or numbers (n, features).",
        )
    if len(shape) == 2:
        return _part(array, labels, shape[1:], None, 1.0, missing), []
    sample, axes = _layout(array)
    scale = _scale(array)
    told = [] if array.dtype == np.uint8 else [f"'{array.name}' became 8-bit images from {RANGES[scale]}"]
    return _part(array, labels, sample, axes, scale, missing), told


def _layout(array: Rows) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """(c, h, w), and the order of axes that brings a chunk there."""
    if len(array.shape) == 3:
        return (1, *array.shape[1:]), None
    first, second, last = array.shape[1:]
    if first in (1, 3):
        return (first, second, last), None
    if last in (1, 3):
        return (last, first, second), (0, 3, 1, 2)
    raise DataError(
        f"The images '{array.name}' of {array.where} have shape {array.shape}, with neither 1 nor 3 channels.",
        "Give (n, h, w, c) or (n, c, h, w) with c 1 or 3.",
    )


def _scale(array: Rows) -> float:
    """What pixel values are multiplied by to be levels 0 to 255."""
    if array.dtype == np.uint8:
        return 1.0
    low, high, whole = np.inf, -np.inf, True
    for chunk in array.chunks(chunk_rows(array.shape[1:], array.dtype.itemsize)):
        if chunk.size:
            low, high = min(low, float(chunk.min())), max(high, float(chunk.max()))
            whole = whole and (chunk.dtype.kind in "iub" or bool((chunk == np.floor(chunk)).all()))
    if low >= 0 and high <= 1 and array.dtype.kind in "fb":
        return 255.0
    if low >= 0 and high <= 255 and (whole or high >= SURELY_LEVELS):
        return 1.0
    raise DataError(
        f"The images '{array.name}' of {array.where} are {array.dtype} from {low:g} to {high:g}.",
        "Give levels 0 to 255, or numbers from 0 to 1; what standardises them is gracile.models.Normalize, a network's layer.",
    )


def _part(
    array: Rows,
    labels: np.ndarray,
    sample: tuple[int, ...],
    axes: tuple[int, ...] | None,
    scale: float,
    missing: Missing,
) -> Part:
    dtype = np.float32 if len(sample) == 1 else np.uint8
    return Part(
        labels, sample, dtype, partial(_read, array, sample, axes, scale, missing), array.files, column=array.name
    )


def _read(
    array: Rows,
    sample: tuple[int, ...],
    axes: tuple[int, ...] | None,
    scale: float,
    missing: Missing,
    rows: np.ndarray | None,
) -> Iterator[np.ndarray]:
    first = 0
    names = [str(index) for index in range(sample[0])]
    for chunk in array.chunks(chunk_rows(sample, array.dtype.itemsize)):
        numbers = np.arange(first, first + len(chunk))
        first += len(chunk)
        if rows is not None:
            wanted = np.isin(numbers, rows, assume_unique=True)
            chunk, numbers = chunk[wanted], numbers[wanted]
        if len(sample) == 1:
            chunk = to_features(chunk, names, numbers, f"'{array.name}' of {array.where}", missing=missing)
        else:
            if chunk.dtype != np.uint8:
                chunk = np.rint(chunk * scale).astype(np.uint8)
            chunk = chunk if axes is None else chunk.transpose(axes)
        if len(chunk):
            yield chunk.reshape(-1, *sample)
