"""Columns of a table as features: numbers as they stand, text and booleans encoded, columns that only count rows left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gracile.core.errors import DataError
from gracile.data.source import Missing, row_name, to_features

# More different texts than this are names or free text rather than categories.
MOST_CATEGORIES = 50
# What pandas, databases and spreadsheets call a column that only numbers the rows: also ``PassengerId``, ``row_id``, ``sampleID``.
INDEX_NAMES = frozenset({"", "index", "row", "rownames", "unnamed: 0", "__index_level_0__", "uid", "uuid", "guid"})
ID_NAME = re.compile(r"(?:.*[_\W])?[Ii][Dd]|.*[a-z0-9](?:Id|ID)")
MISSING = "missing"
# Signs of an empty cell, beside the empty one.
BLANKS = ("", MISSING, "nan", "na", "n/a", "null", "?")
# Of a text column no more different values than this are kept in mind.
MOST_TEXTS = 100_000
# Of what was found in a column so many are told.
MOST_NAMED = 8
# A number with a decimal comma; one that may as well have its thousands set apart; what looks like a number at all.
COMMA, THOUSANDS = r"^[-+]?\d*,\d+(?:[eE][-+]?\d+)?$", r"^[-+]?[1-9]\d{0,2},\d{3}$"
FIGURES = r"^[-+]?[$€£]?\s?[-+]?\d[\d.,' ]*\s?[%$€£]?$"


@dataclass(frozen=True)
class Column:
    """How one column becomes features.

    Attributes:
        name: of the column.
        categories: the texts it holds, in alphabetical order; None where it holds numbers.
        comma: whether its numbers have a decimal comma.
    """

    name: str
    categories: tuple[str, ...] | None = None
    comma: bool = False

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
            return _numbers(values, self.name, rows, where, comma=self.comma)[:, None]
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
    """What is known of one column after some batches.

    Attributes:
        name: of the column.
        rows: how many.
        filled: cells that are not empty.
        texts: filled cells that are no numbers as they stand.
        commas: of them, numbers with a decimal comma.
        thousands: of these, those that may as well be thousands.
        figures: of the texts, those that look like numbers.
        distinct: the texts, no more than `MOST_TEXTS`.
        whole: the values of a column that may number the rows, batch by batch; None once one is no whole number.
    """

    name: str
    rows: int = 0
    filled: int = 0
    texts: int = 0
    commas: int = 0
    thousands: int = 0
    figures: int = 0
    distinct: set[str] = field(default_factory=set)
    whole: list[np.ndarray] | None = field(default_factory=list)

    def add(self, values: pa.Array) -> None:
        """Take in a batch."""
        self.rows += len(values)
        if not _is_text(values.type) and not pa.types.is_boolean(values.type):
            self.filled += len(values)
            self._add_numbers(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
            return
        texts = _texts(values)
        numbers = _parsed(texts)
        blank = _call("equal", texts, MISSING).to_numpy(zero_copy_only=False)
        self.filled += int((~blank).sum())
        odd = ~blank if pa.types.is_boolean(values.type) else np.isnan(numbers) & ~blank
        self.texts += int(odd.sum())
        if odd.any():
            strange = texts.filter(pa.array(odd))
            self.commas, self.thousands, self.figures = (
                before + int(np.sum(_matches(strange, pattern)))
                for before, pattern in ((self.commas, COMMA), (self.thousands, THOUSANDS), (self.figures, FIGURES))
            )
        if len(self.distinct) <= MOST_TEXTS:
            self.distinct |= set(texts.unique().to_pylist())
        self._add_numbers(numbers)

    def _add_numbers(self, numbers: np.ndarray) -> None:
        if self.whole is not None and is_index_name(self.name):
            whole = bool((numbers == np.floor(numbers)).all())
            self.whole = [*self.whole, numbers] if whole else None

    @property
    def numbers_rows(self) -> bool:
        """Whether it is named like a column that numbers the rows and holds another whole number in each."""
        if not is_index_name(self.name) or not self.whole or not self.rows:
            return False
        return len(np.unique(np.concatenate(self.whole))) == self.rows


def is_index_name(name: str) -> bool:
    """Whether a column of this name may number the rows."""
    return name.strip().lower() in INDEX_NAMES or ID_NAME.fullmatch(name.strip()) is not None


def understand(names: Sequence[str], batches: Iterable[pa.RecordBatch], where: str) -> tuple[list[Column], list[str]]:
    """Decide how each column of a table is read, in one pass.

    A column is text where more than half of its filled cells are no numbers; a single word among numbers is an error,
    not a category. What would give labels away in a sorted table, or be learned by heart, is left out: a column whose
    name says that it numbers the rows and that holds another whole number in each, in whatever order; and text of which
    most rows have their own, as names, dates and keys are.

    Args:
        names: the columns beside the label.
        batches: record batches that hold them.
        where: the table, for messages.

    Returns:
        the columns to read, and what was decided, a sentence each.

    Raises:
        DataError: more different texts than categories, texts that are no UTF-8, or no column is left.
    """
    seen = {name: _Seen(name) for name in names}
    for batch in batches:
        for name in names:
            try:
                seen[name].add(batch.column(name))
            except pa.ArrowInvalid as error:
                raise DataError(
                    f"Column '{name}' of {where} cannot be read: {str(error).splitlines()[0]}.",
                    "Write the table anew, its texts as UTF-8.",
                ) from error
    columns, told = [], []
    for name, column in seen.items():
        if column.numbers_rows:
            told.append(f"column '{name}' only numbers the rows and is left out")
        elif column.thousands < column.commas == column.texts:
            columns.append(Column(name, comma=True))
            told.append(f"the numbers of column '{name}' have a decimal comma")
        elif column.texts * 2 > column.filled:
            columns += _categories(column, where, told)
        else:
            columns.append(Column(name))
    if not columns:
        raise DataError(
            f"{where} has no column beside the label that can be learned from: {'; '.join(told) or 'there is none'}.",
            "Load a file with features or images.",
        )
    return columns, told


def _categories(column: _Seen, where: str, told: list[str]) -> list[Column]:
    """A column of text as categories, or as nothing; what was decided goes into `told`.

    Raises:
        DataError: more different texts than categories, or numbers that cannot be read for sure.
    """
    name, found = column.name, tuple(sorted(column.distinct))
    if 2 * column.figures > column.texts:
        raise DataError(
            f"Column '{name}' of {where} holds what looks like numbers and cannot be read as such for sure, as '{found[0]}'.",
            "Write them with a decimal point and nothing between the thousands, or drop the column.",
        )
    if 2 * len(found) > column.filled or len(found) > MOST_TEXTS:
        told.append(f"column '{name}' is text of which most rows have their own, as '{found[0]}', and is left out")
        return []
    if len(found) > MOST_CATEGORIES:
        raise DataError(
            f"Column '{name}' of {where} holds {len(found)} different texts, more than {MOST_CATEGORIES}.",
            "Drop the column, or turn its texts into numbers.",
        )
    if len(found) <= 2:
        told.append(f"column '{name}' is {' and '.join(f'{number} for {text!r}' for number, text in enumerate(found))}")
    else:
        texts = ", ".join(found[:MOST_NAMED]) + (", ..." if len(found) > MOST_NAMED else "")
        told.append(f"column '{name}' is text and became {len(found)} features, one for each of {texts}")
    return [Column(name, found)]


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
    """As strings without blanks around them; a null and what stands for an empty cell are "missing"."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    trimmed = _call("utf8_trim_whitespace", values.cast(pa.string()))
    blanks = pc.SetLookupOptions(pa.array(BLANKS))
    blank = pc.call_function("is_in", [_call("utf8_lower", trimmed)], blanks)
    return _call("if_else", pc.fill_null(_call("or", blank, _call("is_null", trimmed)), True), MISSING, trimmed)


def _matches(texts: pa.Array, pattern: str) -> np.ndarray:
    """(k,) whether each text matches."""
    found = pc.call_function("match_substring_regex", [texts], pc.MatchSubstringOptions(pattern))
    return found.to_numpy(zero_copy_only=False).astype(bool)


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


def is_number(cell: str) -> bool:
    """Whether a text stands for a number, with a decimal point or a comma."""
    return not np.isnan(number(cell)) or re.match(COMMA, cell) is not None


def _numbers(values: pa.Array, name: str, rows: np.ndarray, where: str, *, comma: bool) -> np.ndarray:
    if not _is_text(values.type):
        # Null becomes NaN.
        return values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
    texts = _texts(values)
    if comma:
        texts = pc.call_function("replace_substring", [texts], pc.ReplaceSubstringOptions(",", "."))
    numbers = _parsed(texts)
    odd = np.isnan(numbers) & ~_call("equal", texts, MISSING).to_numpy(zero_copy_only=False)
    if odd.any():
        row = int(np.argmax(odd))
        raise DataError(
            f"Column '{name}' of {where} holds '{texts[row]}' in {row_name(int(rows[row]))}, no number.",
            "Correct the cell, drop the column, or name it as the label.",
        )
    return numbers
