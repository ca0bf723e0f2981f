"""NumPy archives: ``x`` and ``y``, or ``x_train`` and ``y_train``, and the same with ``_test`` and ``_val``."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from gracile.core.errors import DataError
from gracile.data.labels import encode
from gracile.data.source import Opened, Part, Request, check_same_shape, chunk_rows, to_features

MEMBERS = {"train": ("x_train", "y_train"), "validation": ("x_val", "y_val"), "test": ("x_test", "y_test")}


def open_source(request: Request) -> Opened:
    """Open an archive; inputs are uint8 images (n, h, w), (n, h, w, c) or (n, c, h, w), or numbers (n, features).

    An array ``classes`` of strings names the classes.

    Raises:
        DataError: not an archive, arrays are missing or pickled, or their shapes or types do not fit.
    """
    path = Path(request.name)
    try:
        with zipfile.ZipFile(path) as archive:
            names = {member[:-4]: member for member in archive.namelist() if member.endswith(".npy")}
            lower = {name.lower(): member for name, member in names.items()}
            members = {split: pair for split, pair in MEMBERS.items() if pair[0] in lower and pair[1] in lower}
            if "train" not in members and {"x", "y"} <= set(lower):
                members["train"] = ("x", "y")
            if "train" not in members:
                raise DataError(
                    f"{path} holds the arrays {', '.join(names) or '(none)'}, not x and y, or x_train and y_train.",
                    "Save it as np.savez(path, x=inputs, y=labels).",
                )
            declared = _whole(archive, lower["classes"], path) if "classes" in lower else None
            labels = {split: _whole(archive, lower[y], path) for split, (_, y) in members.items()}
            arrays = {split: _Array.of(archive, lower[x], path) for split, (x, _) in members.items()}
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise _damaged(path, error) from error
    classes = tuple(str(name) for name in declared) if declared is not None else None
    flat = {split: values.reshape(-1) for split, values in labels.items()}
    for split, array in arrays.items():
        if labels[split].size != array.shape[0] or labels[split].ndim not in (1, 2):
            raise DataError(
                f"{path} holds inputs of shape {array.shape} and labels of shape {labels[split].shape} for {split}.",
                "Give one class number an input.",
            )
    encoded, classes = encode(flat, classes, path.name)
    parts = {split: _part(array, encoded[split]) for split, array in arrays.items()}
    check_same_shape(parts, path.name)
    return Opened(path.stem, classes, parts)


@dataclass(frozen=True)
class _Array:
    """An array of the archive, not read yet."""

    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool

    @staticmethod
    def of(archive: zipfile.ZipFile, member: str, path: Path) -> _Array:
        with archive.open(member) as stream:
            shape, fortran, dtype = _header(stream, path, member)
        return _Array(path, member, shape, dtype, fortran)

    def chunks(self, size: int) -> Iterator[np.ndarray]:
        """The array's rows, `size` at a time."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                if self.fortran:
                    # Columns first: no row is complete before the end of the file.
                    whole = _whole(archive, self.member, self.path)
                    yield from (whole[start : start + size] for start in range(0, len(whole), size))
                    return
                with archive.open(self.member) as stream:
                    _header(stream, self.path, self.member)
                    row_bytes = int(np.prod(self.shape[1:])) * self.dtype.itemsize
                    for start in range(0, self.shape[0], size):
                        count = min(size, self.shape[0] - start)
                        content = stream.read(count * row_bytes)
                        yield np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise _damaged(self.path, error) from error


def _header(stream: IO[bytes], path: Path, member: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except ValueError as error:
        raise _damaged(path, error) from error
    if dtype.hasobject:
        raise DataError(
            f"The array '{member[:-4]}' of {path} holds pickled objects, which are never loaded.",
            "Save plain numbers or fixed-length strings (dtype=str) instead of dtype=object.",
        )
    return shape, fortran, dtype


def _whole(archive: zipfile.ZipFile, member: str, path: Path) -> np.ndarray:
    with archive.open(member) as stream:
        _header(stream, path, member)
    with archive.open(member) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _damaged(path: Path, error: Exception) -> DataError:
    reason = str(error).split("\n")[0].rstrip(".")
    return DataError(
        f"{path} cannot be read as a NumPy archive: {reason}.", "The file is damaged or no .npz: save it again."
    )


def _part(array: _Array, labels: np.ndarray) -> Part:
    shape: tuple[int, ...] = array.shape
    name = array.member[:-4]
    if len(shape) == 2 and array.dtype.kind in "iufb":
        return _part_of(array, labels, shape[1:], None)
    if len(shape) not in (3, 4) or array.dtype != np.uint8:
        raise DataError(
            f"The inputs '{name}' of {array.path} are {array.dtype} of shape {shape}.",
            "Give images as uint8 (n, h, w), (n, h, w, c) or (n, c, h, w), or numbers as (n, features).",
        )
    if len(shape) == 3:
        return _part_of(array, labels, (1, *shape[1:]), None)
    first, second, last = (int(side) for side in shape[1:])
    if first in (1, 3):
        return _part_of(array, labels, (first, second, last), None)
    if last in (1, 3):
        return _part_of(array, labels, (last, first, second), (0, 3, 1, 2))
    raise DataError(
        f"The images '{name}' of {array.path} have shape {shape}, with neither 1 nor 3 channels.",
        "Give (n, h, w, c) or (n, c, h, w) with c 1 or 3.",
    )


def _part_of(array: _Array, labels: np.ndarray, sample: tuple[int, ...], axes: tuple[int, ...] | None) -> Part:
    dtype = np.float32 if len(sample) == 1 else np.uint8
    return Part(labels, sample, dtype, partial(_read, array, sample, axes), (array.path,), column=array.member)


def _read(
    array: _Array, sample: tuple[int, ...], axes: tuple[int, ...] | None, rows: np.ndarray | None
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
            chunk = to_features(chunk, names, numbers, f"'{array.member[:-4]}' of {array.path}")
        elif axes is not None:
            chunk = chunk.transpose(axes)
        if len(chunk):
            yield chunk.reshape(-1, *sample)
