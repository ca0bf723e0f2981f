"""CSV files: columns of numbers, text or booleans, and one label column."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from gracile.core.errors import DataError
from gracile.data.columns import INDEX_NAMES, Column, number, table_of, understand
from gracile.data.labels import encode
from gracile.data.parquet import LABELS
from gracile.data.source import Missing, Opened, Part, Request, row_name

DELIMITERS = ",;\t|"


def open_source(request: Request) -> Opened:
    """Open a CSV file, plain or compressed by gzip.

    The delimiter (comma, semicolon, tab or bar) is the commonest of the first line. That line is a header unless one of
    its cells is a number and none names a label; whole numbers 0, 1, 2, ... across the columns are a header too, as
    pandas writes it. Without a header the columns are called 0, 1, 2, ... The label is the one asked for, or "label",
    "class" or "target", or the last; whole numbers in it are class numbers, text is class names.

    Raises:
        DataError: the file cannot be read, has one column only, or the label is missing or no class.
    """
    path = Path(request.name)
    shape = _Shape.of(path, request.label)
    lower = {name.lower(): name for name in reversed(shape.columns)}
    found = request.label or next((lower[name] for name in LABELS if name in lower), shape.columns[-1])
    if found not in shape.columns:
        raise DataError(
            f"{path} has no column '{found}': it has {', '.join(shape.columns)}.", "Name one of them as the label."
        )
    cells: list[str | None] = []
    try:
        columns, told = understand(
            [name for name in shape.columns if name != found], _with_labels(shape, found, cells), str(path)
        )
    except pa.ArrowException as error:
        raise _malformed(shape, error) from error
    encoded, classes, renamed = encode({"train": _labels(shape, found, cells)}, None, path.name)
    part = Part(
        encoded["train"],
        (sum(len(column.features) for column in columns),),
        np.float32,
        partial(_read, shape, columns, request.missing),
        (path,),
        column=f"all but {found}",
    )
    read = f"read {len(cells)} rows of {len(columns)} columns from {path.name}, with '{found}' as the label"
    return Opened(path.name.split(".")[0], classes, {"train": part}, told=(read, *told, *renamed))


@dataclass(frozen=True)
class _Shape:
    """How a file is laid out."""

    path: Path
    columns: list[str]
    header: bool
    delimiter: str

    @staticmethod
    def of(path: Path, label: str | None) -> _Shape:
        try:
            opened = gzip.open if path.suffix.lower() == ".gz" else open
            with opened(path, "rt", newline="", encoding="utf-8-sig") as handle:
                line = handle.readline()
                delimiter = max(DELIMITERS, key=line.count)
                handle.seek(0)
                first = [cell.strip() for cell in next(csv.reader(handle, delimiter=delimiter), [])]
        except (UnicodeDecodeError, csv.Error, gzip.BadGzipFile, EOFError) as error:
            raise DataError(f"{path} is not a text file of comma-separated values.", "Save it as UTF-8 CSV.") from error
        if len(first) < 2:
            raise DataError(
                f"{path} has {'one column' if first else 'no rows'}: features and a label need two at least.",
                "Separate columns by comma, semicolon, tab or bar.",
            )
        header = _is_header(first, label)
        columns = first if header else [str(index) for index in range(len(first))]
        twice = next((name for name in columns if columns.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{path} has two columns named '{twice}'.", "Rename one.")
        return _Shape(path, columns, header, delimiter)

    def stream(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Record batches of some columns as text."""
        reader = pacsv.open_csv(
            self.path,
            read_options=pacsv.ReadOptions(column_names=self.columns, skip_rows=int(self.header), use_threads=False),
            parse_options=pacsv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                include_columns=columns, column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=True
            ),
        )
        with reader:
            yield from reader


def _is_header(first: list[str], label: str | None) -> bool:
    """Whether the first line names the columns."""
    if {cell.lower() for cell in first} & set(LABELS) or label in first:
        return True
    # pandas writes the numbers of columns that have no names, after an empty cell where it writes the index too.
    numbers = [cell for cell in first if cell.lower() not in INDEX_NAMES]
    if numbers == [str(place) for place in range(len(numbers))]:
        return True
    return all(np.isnan(number(cell)) for cell in first)


def _with_labels(shape: _Shape, label: str, cells: list[str | None]) -> Iterator[pa.RecordBatch]:
    """All columns, batch by batch; the label's cells gather in `cells` on the way."""
    for batch in shape.stream(shape.columns):
        cells += batch.column(label).to_pylist()
        yield batch


def _labels(shape: _Shape, column: str, cells: list[str | None]) -> np.ndarray:
    """(n,) numbers where every label is one, else strings."""
    if not cells:
        raise DataError(f"{shape.path} has no rows.", "Give it samples.")
    for row, cell in enumerate(cells):
        if cell is None or not cell.strip():
            raise DataError(
                f"The label (column '{column}') in {row_name(row)} of {shape.path} is missing.",
                "Fill it in or drop the row.",
            )
    texts = [str(cell).strip() for cell in cells]
    numbers = np.array([number(text) for text in texts])
    return np.array(texts, dtype=object) if np.isnan(numbers).any() else numbers


def _read(shape: _Shape, columns: list[Column], missing: Missing, rows: np.ndarray | None) -> Iterator[np.ndarray]:
    first = 0
    try:
        for batch in shape.stream([column.name for column in columns]):
            numbers = np.arange(first, first + batch.num_rows)
            first += batch.num_rows
            if rows is not None:
                wanted = np.isin(numbers, rows, assume_unique=True)
                batch, numbers = batch.filter(pa.array(wanted)), numbers[wanted]
            if len(numbers):
                yield table_of(batch, columns, numbers, str(shape.path), missing)
    except pa.ArrowException as error:
        raise _malformed(shape, error) from error


def _malformed(shape: _Shape, error: Exception) -> DataError:
    reason = str(error).split("\n")[0].rstrip(".")
    return DataError(
        f"{shape.path} cannot be read as CSV: {reason}.", "Correct that line; every row needs the same columns."
    )
