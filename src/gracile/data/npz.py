"""NumPy arrays: an archive (.npz) or files (.npy) called ``x`` and ``y``, or ``x_train`` and ``y_train``, ``_test``, ``_val``."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from gracile.core.errors import DataError
from gracile.data.arrays import opened
from gracile.data.source import Opened, Request, refuse_tightly_packed

# What inputs, labels and splits are called; ``x_train`` and ``train_images`` are the same.
INPUTS, TARGETS = ("x", "images", "data", "inputs", "features"), ("y", "labels", "label", "targets", "target")
SPLITS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}


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
    told = [f"read {array.shape[0]} rows of the {split} split of {path.name}" for split, array in arrays.items()]
    told += [f"left out the arrays {', '.join(left)}"] if left else []
    classes = tuple(str(name) for name in files[lower["classes"]].whole()) if "classes" in lower else None
    return opened(path.stem, path.name, arrays, targets, classes, request.missing, told)


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

    @property
    def where(self) -> str:
        return str(self.path)

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

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
