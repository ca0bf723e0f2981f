"""NumPy arrays: an archive (.npz) or files (.npy) called ``x`` and ``y``, or ``x_train`` and ``y_train``, ``_test``, ``_val``."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from gracile.core.errors import DataError
from gracile.data.labels import encode
from gracile.data.source import (
    Missing,
    Opened,
    Part,
    Request,
    check_same_shape,
    chunk_rows,
    refuse_tightly_packed,
    to_features,
)

# What inputs, labels and splits are called; ``x_train`` and ``train_images`` are the same.
INPUTS, TARGETS = ("x", "images", "data", "inputs", "features"), ("y", "labels", "label", "targets", "target")
SPLITS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
# What pixels are scaled by, and what they were; broken numbers that reach so far are levels that were interpolated.
RANGES = {255.0: "0 to 1", 1.0: "levels 0 to 255"}
SURELY_LEVELS = 128


def open_source(request: Request) -> Opened:
    """Open arrays; inputs are images (n, h, w), (n, h, w, c) or (n, c, h, w), or numbers (n, features).

    Images are levels from 0 to 255, or numbers from 0 to 1, which become the nearest of 256 levels. Labels are (n,) or
    (n, 1), or one-hot (n, classes). Arrays are called as in `INPUTS` and `TARGETS`, with the split before or behind as in
    `SPLITS`; an array ``classes`` of strings names the classes. Of ``.npy`` files the folder is named, or any of them.

    Raises:
        DataError: not an archive, arrays are missing or pickled, hold another number of bytes than they declare, or
            their shapes, types or values do not fit.
    """
    path = Path(request.name)
    files = _files_of(path)
    lower = {name.lower(): name for name in files}
    members = _members(lower)
    if "train" not in members:
        raise DataError(
            f"{path} holds the arrays {', '.join(files) or '(none)'}, not x and y, or x_train and y_train.",
            "Save it as np.savez(path, x=inputs, y=labels).",
        )
    used = {name for pair in members.values() for name in pair} | {"classes"}
    left = sorted(set(lower) - used)
    arrays = {split: files[lower[x]] for split, (x, _) in members.items()}
    targets = {split: files[lower[y]] for split, (_, y) in members.items()}
    for split, array in arrays.items():
        rows, target = array.shape[:1], targets[split]
        if not rows or target.shape[:1] != rows or len(target.shape) > 2:
            raise DataError(
                f"{path} holds inputs of shape {array.shape} and labels of shape {target.shape} for {split}.",
                "Give one class number an input.",
            )
    told = [f"read {array.shape[0]} rows of the {split} split of {path.name}" for split, array in arrays.items()]
    told += [f"left out the arrays {', '.join(left)}"] if left else []
    classes = tuple(str(name) for name in files[lower["classes"]].whole()) if "classes" in lower else None
    labels = {}
    for split, target in targets.items():
        labels[split], one_hot = _flat(target)
        told += [f"the labels of the {split} split are one-hot"] if one_hot else []
    encoded, classes, renamed = encode(labels, classes, path.name)
    parts = {}
    for split, array in arrays.items():
        parts[split], how = _part(array, encoded[split], request.missing)
        told += how
    check_same_shape(parts, path.name)
    return Opened(path.stem, classes, parts, told=(*told, *renamed))


def _members(names: Collection[str]) -> dict[str, tuple[str, str]]:
    """Split to the names of its inputs and labels; arrays that name no split are training data."""
    found: dict[str, tuple[str, str]] = {}
    for split, words in SPLITS.items():
        pair = [
            next((name for word in words for one in kind for name in (f"{one}_{word}", f"{word}_{one}") if name in names), None)
            for kind in (INPUTS, TARGETS)
        ]  # fmt: skip
        if pair[0] is not None and pair[1] is not None:
            found[split] = (pair[0], pair[1])
    if "train" not in found:
        x, y = (next((one for one in kind if one in names), None) for kind in (INPUTS, TARGETS))
        found |= {} if x is None or y is None else {"train": (x, y)}
    return found


def _files_of(path: Path) -> dict[str, _Array]:
    """Name to array, nothing but headers read."""
    if path.suffix.lower() == ".npz":
        try:
            with zipfile.ZipFile(path) as archive:
                found = [member for member in archive.namelist() if member.endswith(".npy")]
                return {member[:-4]: _Array.of(path, member) for member in found}
        except DataError:
            raise
        except Exception as error:
            raise _damaged(path, error) from error
    folder = path if path.is_dir() else path.parent
    return {file.stem: _Array.of(file, None) for file in sorted(folder.glob("*.npy"))}


@dataclass(frozen=True)
class _Array:
    """An array, not read yet: a file, or a member of an archive."""

    path: Path
    member: str | None
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool

    @property
    def name(self) -> str:
        return self.path.stem if self.member is None else self.member[:-4]

    @staticmethod
    def of(path: Path, member: str | None) -> _Array:
        with _stream(path, member) as stream:
            shape, fortran, dtype = _header(stream, path, member)
            start = stream.tell()
        held, packed = _sizes(path, member)
        declared = math.prod(shape) * dtype.itemsize
        # Features become float32.
        needed = max(held, 4 * math.prod(shape)) if len(shape) == 2 else held
        if min(shape, default=0) < 0 or declared != held - start:
            raise _damaged(
                path, ValueError(f"'{member or path.name}' declares {declared} bytes and holds {held - start}")
            )
        refuse_tightly_packed(
            needed, packed, f"{path} packs '{member}', ", "save its arrays without compression (np.savez)"
        )
        return _Array(path, member, shape, dtype, fortran)

    def whole(self) -> np.ndarray:
        """The array, in memory."""
        try:
            with _stream(self.path, self.member) as stream:
                return np.lib.format.read_array(stream, allow_pickle=False)
        except DataError:
            raise
        except Exception as error:
            raise _damaged(self.path, error) from error

    def chunks(self, size: int) -> Iterator[np.ndarray]:
        """The array's rows, `size` at a time."""
        if self.fortran:
            # Columns first: no row is complete before the end of the file.
            whole = self.whole()
            yield from (whole[start : start + size] for start in range(0, len(whole), size))
            return
        try:
            with _stream(self.path, self.member) as stream:
                _header(stream, self.path, self.member)
                row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
                for start in range(0, self.shape[0], size):
                    count = min(size, self.shape[0] - start)
                    content = stream.read(count * row_bytes)
                    yield np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError) as error:
            if isinstance(error, DataError):
                raise
            raise _damaged(self.path, error) from error


@contextmanager
def _stream(path: Path, member: str | None) -> Iterator[IO[bytes]]:
    with ExitStack() as stack:
        if member is None:
            yield stack.enter_context(open(path, "rb"))
        else:
            archive = stack.enter_context(zipfile.ZipFile(path))
            try:
                opened = archive.open(member)
            except Exception as error:
                # Encrypted, an unknown way of packing, offsets outside the file: zipfile raises what comes up.
                raise _damaged(path, error) from error
            yield stack.enter_context(opened)


def _sizes(path: Path, member: str | None) -> tuple[int, int]:
    """Bytes, and bytes as stored."""
    if member is None:
        size = path.stat().st_size
        return size, size
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(member)
        return info.file_size, info.compress_size


def _header(stream: IO[bytes], path: Path, member: str | None) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except Exception as error:
        # numpy evaluates the header as a literal: what a damaged one raises has no end.
        raise _damaged(path, error) from error
    if dtype.hasobject:
        raise DataError(
            f"The array '{member[:-4] if member else path.stem}' of {path} holds pickled objects, which are never loaded.",
            "Save plain numbers or fixed-length strings (dtype=str) instead of dtype=object.",
        )
    return shape, fortran, dtype


def _damaged(path: Path, error: Exception) -> DataError:
    reason = str(error).split("\n")[0].rstrip(".")
    return DataError(
        f"{path} cannot be read as a NumPy archive: {reason}.", "The file is damaged or no .npz: save it again."
    )


def _flat(target: _Array) -> tuple[np.ndarray, bool]:
    """Labels (n,), and whether they were one-hot."""
    values = target.whole()
    if values.ndim == 1 or values.shape[1] == 1:
        return values.reshape(-1), False
    if values.dtype.kind in "iufb" and ((values == 0) | (values == 1)).all() and (values.sum(axis=1) == 1).all():
        return values.argmax(axis=1), True
    raise DataError(
        f"The labels '{target.name}' of {target.path} have shape {target.shape} and are not one-hot.",
        "Give one class number an input.",
    )


def _part(array: _Array, labels: np.ndarray, missing: Missing) -> tuple[Part, list[str]]:
    """A split, and how its values were taken if not as they stand."""
    shape = array.shape
    if array.dtype.kind not in "iufb" or len(shape) not in (2, 3, 4):
        raise DataError(
            f"The inputs '{array.name}' of {array.path} are {array.dtype} of shape {shape}.",
            "Give images (n, h, w), (n, h, w, c) or (n, c, h, w), or numbers (n, features).",
        )
    if len(shape) == 2:
        return _part_of(array, labels, shape[1:], None, 1.0, missing), []
    sample, axes = _layout(array)
    scale = _scale(array)
    told = [] if array.dtype == np.uint8 else [f"'{array.name}' became 8-bit images from {RANGES[scale]}"]
    return _part_of(array, labels, sample, axes, scale, missing), told


def _layout(array: _Array) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """(c, h, w), and the order of axes that brings a chunk there."""
    if len(array.shape) == 3:
        return (1, *array.shape[1:]), None
    first, second, last = array.shape[1:]
    if first in (1, 3):
        return (first, second, last), None
    if last in (1, 3):
        return (last, first, second), (0, 3, 1, 2)
    raise DataError(
        f"The images '{array.name}' of {array.path} have shape {array.shape}, with neither 1 nor 3 channels.",
        "Give (n, h, w, c) or (n, c, h, w) with c 1 or 3.",
    )


def _scale(array: _Array) -> float:
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
        f"The images '{array.name}' of {array.path} are {array.dtype} from {low:g} to {high:g}.",
        "Give levels 0 to 255, or numbers from 0 to 1.",
    )


def _part_of(
    array: _Array,
    labels: np.ndarray,
    sample: tuple[int, ...],
    axes: tuple[int, ...] | None,
    scale: float,
    missing: Missing,
) -> Part:
    dtype = np.float32 if len(sample) == 1 else np.uint8
    return Part(
        labels, sample, dtype, partial(_read, array, sample, axes, scale, missing), (array.path,), column=array.name
    )


def _read(
    array: _Array,
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
            chunk = to_features(chunk, names, numbers, f"'{array.name}' of {array.path}", missing=missing)
        else:
            if chunk.dtype != np.uint8:
                chunk = np.rint(chunk * scale).astype(np.uint8)
            chunk = chunk if axes is None else chunk.transpose(axes)
        if len(chunk):
            yield chunk.reshape(-1, *sample)
