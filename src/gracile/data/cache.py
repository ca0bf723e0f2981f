"""Decoded samples kept as safetensors files: a source is decoded once, and a large one is mapped instead of loaded."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from gracile.core.errors import StorageError
from gracile.core.files import write_atomically
from gracile.data.source import Part

log = logging.getLogger("gracile")

# Part of every key: a change of decoding must not meet files of the old one.
FORMAT = 1
# Fewer images decode in less time than it is worth to keep them.
WORTH_KEEPING = 2_000
_DTYPES = {"U8": np.uint8, "F32": np.float32}


def cache_folder() -> Path:
    """Where decoded data are kept: in GRACILE_CACHE or ``~/.cache/gracile``; its files may be deleted at any time."""
    return Path(os.environ.get("GRACILE_CACHE") or Path.home() / ".cache" / "gracile") / "decoded"


def samples(part: Part, rows: np.ndarray | None, *, name: str, stream: bool) -> tuple[torch.Tensor, bool]:
    """The samples of a split, decoded or taken from the cache.

    Args:
        part: the split.
        rows: sorted row numbers, or None for all.
        name: of the data set, for messages.
        stream: whether the samples must stay in a file.

    Returns:
        (k, *shape) uint8 or float32, and whether it is mapped from a file, so that touching it reads the disk.

    Raises:
        DataError: from reading the source.
        StorageError: the cache cannot be written and the samples must stay in a file.
    """
    keep = stream or (part.encoded and (len(part.labels) if rows is None else len(rows)) >= WORTH_KEEPING)
    if not keep:
        return _in_memory(part, rows, name), False
    path = cache_folder() / f"{_key(part, rows)}.safetensors"
    shape = (len(part.labels) if rows is None else len(rows), *part.shape)
    stored = _mapped(path, shape, part.dtype)
    if stored is None:
        try:
            write_atomically(path, lambda temporary: _write(temporary, part, rows, shape, name))
        except OSError as error:  # StorageError is one
            if stream:
                raise StorageError(
                    f"{name} is too large for memory and cannot be decoded into {path.parent}: {_reason(error)}.",
                    "Free space there, or point the variable GRACILE_CACHE to a folder with space.",
                ) from error
            log.info("decoded data are not kept: %s", _reason(error))
            return _in_memory(part, rows, name), False
        stored = _mapped(path, shape, part.dtype)
        if stored is None:
            raise StorageError(f"{path} was written and cannot be read back.", "Check the disk that holds it.")
    return stored, True


def holds_all(part: Part) -> bool:
    """Whether the whole part was decoded before, so that a few of its rows need no decoding."""
    path = cache_folder() / f"{_key(part, None)}.safetensors"
    return part.encoded and _mapped(path, (len(part.labels), *part.shape), part.dtype) is not None


def _reason(error: OSError) -> str:
    inner = error.__cause__ if isinstance(error.__cause__, OSError) else error
    return inner.strerror or str(inner)


def _key(part: Part, rows: np.ndarray | None) -> str:
    """Identify content: files with size and time of change, what is read from them, and how."""
    files = [(str(file.resolve()), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in part.files]
    identity = [FORMAT, files, part.column, part.shape, np.dtype(part.dtype).str, part.options, len(part.labels)]
    digest = hashlib.sha256(json.dumps(identity).encode())
    if rows is not None:
        digest.update(rows.astype("<i8").tobytes())
    return digest.hexdigest()[:32]


def _in_memory(part: Part, rows: np.ndarray | None, name: str) -> torch.Tensor:
    count = len(part.labels) if rows is None else len(rows)
    out = torch.empty((count, *part.shape), dtype=torch.uint8 if part.dtype is np.uint8 else torch.float32)
    target, done = out.numpy(), 0
    for chunk in _counted(part, rows, count, name):
        target[done : done + len(chunk)] = chunk
        done += len(chunk)
    return out


def _write(path: Path, part: Part, rows: np.ndarray | None, shape: tuple[int, ...], name: str) -> None:
    """Write a safetensors file chunk by chunk; the library itself only writes tensors that are whole in memory."""
    dtype = "U8" if part.dtype is np.uint8 else "F32"
    nbytes = part.nbytes(shape[0])
    entry = {"dtype": dtype, "shape": list(shape), "data_offsets": [0, nbytes]}
    header = json.dumps({"__metadata__": {"source": name}, "inputs": entry}).encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as handle:
        handle.write(struct.pack("<Q", len(header)) + header)
        for chunk in _counted(part, rows, shape[0], name):
            handle.write(np.ascontiguousarray(chunk, dtype=part.dtype).data)


def _mapped(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> torch.Tensor | None:
    """Map a cached file; None where there is none or it is damaged."""
    try:
        with open(path, "rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            entry = json.loads(handle.read(length))["inputs"]
        offset = 8 + length
        whole = path.stat().st_size == offset + entry["data_offsets"][1]
        if not whole or tuple(entry["shape"]) != shape or _DTYPES[entry["dtype"]] is not dtype:
            return None
    except (OSError, ValueError, KeyError, struct.error):
        return None
    if 0 in shape:
        return torch.empty(shape, dtype=torch.uint8 if dtype is np.uint8 else torch.float32)
    # Copy on write: torch wants writable memory, and the file stays as it is whatever is done to the tensor.
    return torch.from_numpy(np.memmap(path, dtype=dtype, mode="c", offset=offset, shape=shape))


def _counted(part: Part, rows: np.ndarray | None, count: int, name: str) -> Iterator[np.ndarray]:
    """The chunks of a part under a progress bar that shows itself after a second."""
    started = time.perf_counter()
    with tqdm(total=count, desc=f"reading {name}", unit=" samples", delay=1, disable=None, leave=False) as bar:
        for chunk in part.read(rows):
            yield chunk
            bar.update(len(chunk))
    took = time.perf_counter() - started
    if took > 1:
        log.info("read %d samples of %s in %.1f s", count, name, took)
