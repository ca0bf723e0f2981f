"""Columns of a table as features: numbers as they stand, text and booleans encoded, columns that only count rows left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gracile.core.errors import DataError
from gracile.data.source import Missing, row_name, to_features

# More different texts than this are names or free text rather than categories.
MOST_CATEGORIES = 50
# What pandas, databases and spreadsheets call a column that only numbers the rows.
INDEX_NAMES = frozenset({"", "id", "index", "row", "rownames", "unnamed: 0", "__index_level_0__"})
MISSING = "missing"


@dataclass(frozen=True)
class Column:
    """How one column becomes features.

    Attributes:
        name: of the column.
        categories: the texts it holds, in alphabetical order; None where it holds numbers.
    """

    name: str
    categories: tuple[str, ...] | None = None

    @property
    def features(self) -> list[str]:
        """Names of the features: one for numbers or two categories, else one for each category."""
        if self.categories is None or len(self.categories) <= 2:
            return [self.name]
        return [f"{self.name}={category}" for category in self.categories]

    def encode(self, values: pa.Array, rows: np.ndarray, where: str) -> np.ndarray:
        """One batch of the column as ``(k, features)`` float64; missing numbers are NaN.

        Args:
            values: (k,).
            rows: (k,) the rows' numbers, for messages.
            where: the table, for messages.

        Raises:
            DataError: a text that is no number, or none of the categories.
        """
        if self.categories is None:
            return _numbers(values, self.name, rows, where)[:, None]
        texts = _texts(values)
        codes = pc.fill_null(
            pc.call_function("index_in", [texts], pc.SetLookupOptions(pa.array(self.categories))), -1
        ).to_numpy(zero_copy_only=False)
        if (codes < 0).any():
            row = int(np.argmax(codes < 0))
            raise DataError(
                f"Column '{self.name}' of {where} holds '{texts[row]}' in {row_name(int(rows[row]))}, "
                f"which the training data do not have: {', '.join(self.categories)}.",
                "Correct the cell, or drop the row.",
            )
        if len(self.categories) <= 2:
            return codes.astype(np.float64)[:, None]
        return np.eye(len(self.categories))[codes]


def table_of(
    batch: pa.RecordBatch, columns: Sequence[Column], rows: np.ndarray, where: str, missing: Missing
) -> np.ndarray:
    """A batch as float32 features ``(k, features)``.

    Args:
        batch: holds the columns by name.
        columns: how each is encoded.
        rows: (k,) the rows' numbers, for messages.
        where: the table, for messages.
        missing: what becomes of empty cells, see `gracile.data.source.Request`.

    Raises:
        DataError: a cell that is no number, an empty one, or one beyond float32.
    """
    parts = [column.encode(batch.column(column.name), rows, where) for column in columns]
    names = [name for column in columns for name in column.features]
    return to_features(np.concatenate(parts, axis=1), names, rows, where, missing=missing)


@dataclass
class _Seen:
    """What is known of one column after some batches."""

    name: str
    rows: int = 0
    texts: int = 0
    filled: int = 0
    distinct: set[str] | None = field(default_factory=set)
    counts_rows: bool = True
    last: float = -np.inf

    def add(self, values: pa.Array) -> None:
        """Take in a batch."""
        kind = values.type
        self.rows += len(values)
        if _is_text(kind) or pa.types.is_boolean(kind):
            texts = _texts(values)
            numbers = _parsed(texts)
            blank = _call("equal", texts, MISSING).to_numpy(zero_copy_only=False)
            self.filled += int((~blank).sum())
            self.texts += int((np.isnan(numbers) & ~blank).sum()) if not pa.types.is_boolean(kind) else len(values)
            if self.distinct is not None:
                self.distinct |= set(texts.unique().to_pylist())
                if len(self.distinct) > MOST_CATEGORIES:
                    self.distinct = None
        else:
            numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            self.filled += len(values)
        if self.counts_rows and len(numbers):
            steps = np.diff(numbers, prepend=self.last)
            self.counts_rows = bool((numbers == np.floor(numbers)).all() and (steps > 0).all())
            self.last = float(numbers[-1])


def understand(names: Sequence[str], batches: Iterable[pa.RecordBatch], where: str) -> tuple[list[Column], list[str]]:
    """Decide how each column of a table is read, in one pass.

    A column is text where more than half of its filled cells are no numbers; a single word among numbers is an error,
    not a category. A column whose name says that it numbers the rows, and whose whole numbers rise from row to row, is
    left out: in a sorted table it would give the label away.

    Args:
        names: the columns beside the label.
        batches: record batches that hold them.
        where: the table, for messages.

    Returns:
        the columns to read, and what was decided, a sentence each.

    Raises:
        DataError: more different texts than categories, or no column is left.
    """
    seen = {name: _Seen(name) for name in names}
    for batch in batches:
        for name in names:
            seen[name].add(batch.column(name))
    columns, told = [], []
    for name, column in seen.items():
        if name.strip().lower() in INDEX_NAMES and column.counts_rows and column.rows:
            told.append(f"column '{name}' only numbers the rows and is left out")
        elif column.texts * 2 > column.filled:
            if column.distinct is None:
                raise DataError(
                    f"Column '{name}' of {where} holds more than {MOST_CATEGORIES} different texts.",
                    "Drop the column, or turn its texts into numbers.",
                )
            made = Column(name, tuple(sorted(column.distinct)))
            columns.append(made)
            values = ", ".join(made.categories or ())
            told.append(f"column '{name}' is text and became {len(made.features)} feature(s): {values}")
        else:
            columns.append(Column(name))
    if not columns:
        raise DataError(f"{where} has no column beside the label.", "Load a file with features or images.")
    return columns, told


def _call(function: str, *values: object) -> pa.Array:
    """One of Arrow's functions by name; most are made when `pyarrow.compute` is imported, unknown to type checkers."""
    return pc.call_function(function, [*values])


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def readable(kind: pa.DataType) -> bool:
    """Whether a column of this type is numbers, text or booleans."""
    return (
        _is_text(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    )


def _texts(values: pa.Array) -> pa.Array:
    """As strings without blanks around them; an empty one and a null are "missing"."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    trimmed = _call("utf8_trim_whitespace", values.cast(pa.string()))
    return _call("if_else", pc.fill_null(_call("equal", trimmed, ""), True), MISSING, trimmed)


def _parsed(texts: pa.Array) -> np.ndarray:
    """As numbers, NaN where a text is none."""
    try:
        blank = _call("equal", texts, MISSING)
        return _call("if_else", blank, None, texts).cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
    except pa.ArrowInvalid:
        return np.array([number(text) for text in texts.to_pylist()])


def number(cell: str) -> float:
    """The number a text stands for, NaN where it is none."""
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _numbers(values: pa.Array, name: str, rows: np.ndarray, where: str) -> np.ndarray:
    if not _is_text(values.type):
        # Null becomes NaN.
        return values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
    texts = _texts(values)
    numbers = _parsed(texts)
    odd = np.isnan(numbers)
    for row in np.flatnonzero(odd):
        text = texts[int(row)].as_py()
        if text.lower() not in (MISSING, "nan", "na", "n/a", "null"):
            raise DataError(
                f"Column '{name}' of {where} holds '{text}' in {row_name(int(rows[row]))}, no number.",
                "Correct the cell, drop the column, or name it as the label.",
            )
    return numbers
