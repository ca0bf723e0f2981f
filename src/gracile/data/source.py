"""What a source hands over: labels at once, samples chunk by chunk, so that nothing is decoded before it is chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from gracile.core.errors import DataError

# Files of columns that pyarrow reads.
COLUMNAR = (".parquet", ".arrow", ".feather")
Missing = Literal["error", "mean", "drop"]

# A chunk is large enough that per-chunk costs vanish and small enough that several of them are nothing beside the data.
CHUNK_BYTES = 16 * 2**20
CHUNK_ROWS = 4096
# What is this large and was packed this tightly is no data set but an attempt to fill the memory.
SUSPICIOUS_BYTES, SUSPICIOUS_RATIO = 2**30, 100


@dataclass(frozen=True)
class Request:
    """What a user asked for.

    Attributes:
        name: a data set's name or a path.
        root: folder with a folder per data set, or None.
        label: the label column, or None to find it.
        image_size: (height, width) that images are brought to, or None to take them as they are.
        channels: 1 or 3 that images are brought to, or None to take 3 as soon as one of them is in colour.
        missing: what becomes of empty cells: an error, or NaN for the caller to fill in or drop.
        skip_corrupt: leave images out that cannot be read.
    """

    name: str
    root: Path | None = None
    label: str | None = None
    image_size: tuple[int, int] | None = None
    channels: int | None = None
    missing: Missing = "error"
    skip_corrupt: bool = False


@dataclass(frozen=True)
class Part:
    """One split as it stands in its source, not yet decoded.

    Attributes:
        labels: (n,) int64, checked.
        shape: of one sample: (c, h, w) or (features,).
        dtype: uint8 for images, float32 for features.
        read: called with sorted row numbers, or None for all; yields arrays (k, *shape) that together are those rows.
        files: what the samples are read from; with size and time of change they identify the content.
        encoded: whether samples are compressed images, worth keeping decoded.
        column: which column or member of the files the samples stand in.
        options: whatever else changes the decoded samples.
    """

    labels: np.ndarray
    shape: tuple[int, ...]
    dtype: type[np.generic]
    read: Callable[[np.ndarray | None], Iterator[np.ndarray]]
    files: tuple[Path, ...] = ()
    encoded: bool = False
    column: str = ""
    options: str = ""

    def nbytes(self, rows: int) -> int:
        """What `rows` samples take in memory."""
        return rows * int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Opened:
    """An opened source.

    Attributes:
        name: for messages and result tables.
        classes: class names; a label is an index into them.
        parts: "train" always, "validation" and "test" where the source has them.
        note: what a reader of results must know.
        told: what was read as what, and what was left out, a sentence each.
    """

    name: str
    classes: tuple[str, ...]
    parts: dict[str, Part]
    note: str = ""
    told: tuple[str, ...] = ()


def chunk_rows(shape: tuple[int, ...], itemsize: int = 1) -> int:
    """How many samples make a chunk."""
    return max(1, min(CHUNK_ROWS, CHUNK_BYTES // max(1, int(np.prod(shape)) * itemsize)))


def array_reader(array: np.ndarray) -> Callable[[np.ndarray | None], Iterator[np.ndarray]]:
    """`Part.read` over an array that is in memory already."""

    def read(rows: np.ndarray | None) -> Iterator[np.ndarray]:
        yield array if rows is None else array[rows]

    return read


def row_name(row: int) -> str:
    """How messages name a row."""
    return f"row {row} (the first is 0)"


def refuse_tightly_packed(needed: int, packed: int, what: str, remedy: str) -> None:
    """Refuse a file before it is unpacked that would fill the memory.

    Args:
        needed: bytes in memory.
        packed: bytes in the file.
        what: begins the sentence.
        remedy: for who trusts the file.

    Raises:
        DataError: it is large and was packed more tightly than data are.
    """
    if needed > SUSPICIOUS_BYTES and needed > SUSPICIOUS_RATIO * packed:
        raise DataError(
            f"{what} {needed / 2**30:.1f} GiB in memory into {packed / 2**20:.1f} MiB.",
            f"If you trust the file, {remedy}.",
        )


def check_same_shape(parts: dict[str, Part], name: str) -> None:
    """All splits of a source must have samples of one shape.

    Raises:
        DataError: they do not.
    """
    shapes = {split: part.shape for split, part in parts.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{split} {shape}" for split, shape in shapes.items())
        raise DataError(f"The splits of {name} have samples of different shapes: {listed}.", "Bring them to one shape.")


def to_features(
    values: np.ndarray, columns: Sequence[str], rows: np.ndarray, where: str, *, missing: Missing = "error"
) -> np.ndarray:
    """Turn numbers into float32 features and refuse what is no finite float32.

    Args:
        values: (k, features).
        columns: the features' names.
        rows: (k,) the rows' numbers in `where`.
        where: the file or table, for messages.
        missing: unless it is ``error``, NaN stays.

    Raises:
        DataError: NaN, infinity or a number beyond float32; column and row of the first are named.
    """
    bad = ~(np.abs(values) <= np.finfo(np.float32).max)
    if missing != "error":
        bad &= ~np.isnan(values)
    if bad.any():
        row, column = (int(index) for index in np.argwhere(bad)[0])
        found, place = values[row, column], row_name(int(rows[row]))
        if np.isnan(found):
            raise DataError(
                f"Column '{columns[column]}' of {where} is empty (nan) in {place}.",
                'Fill such cells with the training mean (missing="mean"), or drop their rows (missing="drop").',
            )
        raise DataError(
            f"Column '{columns[column]}' of {where} holds {found} in {place}.",
            "Correct the cell or drop the row: features must be finite numbers that float32 can hold.",
        )
    return values.astype(np.float32)
