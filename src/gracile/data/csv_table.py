"""CSV files: numeric columns and one label column."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from gracile.core.errors import DataError
from gracile.data.labels import encode
from gracile.data.parquet import LABELS
from gracile.data.source import Opened, Part, Request, row_name, to_features


def open_source(request: Request) -> Opened:
    """Open a CSV file.

    The delimiter (comma, semicolon or tab) is the commonest of the first line. That line is a header unless one of its
    cells is a number and none names a label; without a header the columns are called 0, 1, 2, ... The label is the one
    asked for, or "label", "class" or "target", or the last; whole numbers in it are class numbers, text is class names.

    Raises:
        DataError: the file cannot be read, has one column only, or the label is missing or no class.
    """
    path = Path(request.name)
    shape = _Shape.of(path, request.label)
    lower = {name.lower(): name for name in reversed(shape.columns)}
    found = request.label or next((lower[name] for name in LABELS if name in lower), shape.columns[-1])
    if found not in shape.columns:
        raise DataError(
            f"{path} has no column '{found}': it has {', '.join(shape.columns)}.", "Name one of them with label=."
        )
    labels = _labels(shape, found)
    encoded, classes = encode({"train": labels}, None, path.name)
    features = [name for name in shape.columns if name != found]
    part = Part(
        encoded["train"],
        (len(features),),
        np.float32,
        partial(_read, shape, features),
        (path,),
        column=f"all but {found}",
    )
    return Opened(path.stem, classes, {"train": part})


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
            with open(path, newline="", encoding="utf-8-sig") as handle:
                line = handle.readline()
                delimiter = max(",;\t", key=line.count)
                handle.seek(0)
                first = [cell.strip() for cell in next(csv.reader(handle, delimiter=delimiter), [])]
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path} is not a text file of comma-separated values.", "Save it as UTF-8 CSV.") from error
        if len(first) < 2:
            raise DataError(
                f"{path} has {'one column' if first else 'no rows'}: features and a label need two at least.",
                "Separate columns by comma, semicolon or tab.",
            )
        named = {cell.lower() for cell in first} & set(LABELS) or label in first
        header = bool(named) or not any(_number(cell) is not None for cell in first)
        columns = first if header else [str(index) for index in range(len(first))]
        twice = next((name for name in columns if columns.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{path} has two columns named '{twice}'.", "Rename one.")
        return _Shape(path, columns, header, delimiter)

    def stream(self, columns: list[str], kind: pa.DataType) -> Iterator[pa.RecordBatch]:
        """Record batches of some columns, all read as one type."""
        reader = pacsv.open_csv(
            self.path,
            read_options=pacsv.ReadOptions(column_names=self.columns, skip_rows=int(self.header), use_threads=False),
            parse_options=pacsv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                include_columns=columns, column_types=dict.fromkeys(columns, kind), strings_can_be_null=True
            ),
        )
        with reader:
            yield from reader


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _labels(shape: _Shape, column: str) -> np.ndarray:
    """(n,) integers where every label is a number, else strings."""
    try:
        cells = [cell for batch in shape.stream([column], pa.string()) for cell in batch.column(0).to_pylist()]
    except pa.ArrowException as error:
        raise _malformed(shape, error) from error
    if not cells:
        raise DataError(f"{shape.path} has no rows.", "Give it samples.")
    for row, cell in enumerate(cells):
        if cell is None or not cell.strip():
            raise DataError(
                f"The label (column '{column}') in {row_name(row)} of {shape.path} is missing.",
                "Fill it in or drop the row.",
            )
    numbers = [_number(cell) for cell in cells]
    if None not in numbers:
        return np.array(numbers, dtype=np.float64)
    return np.array([cell.strip() for cell in cells], dtype=object)


def _read(shape: _Shape, features: list[str], rows: np.ndarray | None) -> Iterator[np.ndarray]:
    first = 0
    try:
        for batch in shape.stream(features, pa.float64()):
            values = np.empty((batch.num_rows, len(features)))
            for index in range(len(features)):
                values[:, index] = batch.column(index).to_numpy(zero_copy_only=False)
            numbers = np.arange(first, first + len(values))
            first += len(values)
            if rows is not None:
                wanted = np.isin(numbers, rows, assume_unique=True)
                values, numbers = values[wanted], numbers[wanted]
            if len(values):
                yield to_features(values, features, numbers, str(shape.path))
    except pa.ArrowException as error:
        # pyarrow tells neither row nor column in a stream; the file is read again as text to find the cell.
        raise _bad_cell(shape, features) or _malformed(shape, error) from error


def _bad_cell(shape: _Shape, features: list[str]) -> DataError | None:
    """The error that names the first cell which is no number, None where there is none."""
    first = 0
    try:
        for batch in shape.stream(features, pa.string()):
            for row, cells in enumerate(zip(*(column.to_pylist() for column in batch.columns), strict=True)):
                for name, cell in zip(features, cells, strict=True):
                    if cell is not None and _number(cell) is None:
                        return DataError(
                            f"Column '{name}' of {shape.path} holds '{cell}' in {row_name(first + row)}, no number.",
                            "Turn the column into numbers, drop it, or name it with label= if it is the label.",
                        )
            first += batch.num_rows
    except pa.ArrowException:
        return None
    return None


def _malformed(shape: _Shape, error: Exception) -> DataError:
    reason = str(error).split("\n")[0].rstrip(".")
    return DataError(
        f"{shape.path} cannot be read as CSV: {reason}.", "Mend that line; every row needs the same columns."
    )
