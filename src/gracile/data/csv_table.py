"""CSV files: columns of numbers, text or booleans, and one label column."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from gracile.core.errors import DataError
from gracile.data.columns import Column, is_index_name, is_number, number, table_of, understand
from gracile.data.labels import encode
from gracile.data.parquet import LABELS
from gracile.data.parquet import by_split as split_files
from gracile.data.source import Missing, Opened, Part, Request, refuse_tightly_packed, row_name

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
DELIMITERS = ",;\t|"
DECIMAL_COMMA = re.compile(r"(?<=\d),(?=\d)")


def open_source(request: Request) -> Opened:
    """Open a CSV file, plain or compressed by gzip, or a folder with one for each split, such as train.csv and test.csv.

    The delimiter (comma, semicolon, tab or bar) is the commonest of the first line. That line is a header unless one of
    its cells is a number and none names a label; whole numbers 0, 1, 2, ... across the columns are a header too, as
    pandas writes it. Without a header the columns are called 0, 1, 2, ... The label is the one asked for, or "label",
    "class" or "target", or what the test split alone lacks, or the last; whole numbers in it are class numbers, text is class names.

    Raises:
        DataError: the file cannot be read, has one column only, or the label is missing or no class; or it cannot be told
            which file of a folder is which split.
    """
    files, passed = _files(Path(request.name))
    shapes = {split: _Shape.of(path, request.label) for split, path in files.items()}
    train = shapes["train"]
    label = request.label or _label_column(train, [shape for split, shape in shapes.items() if split != "train"])
    if label not in train.columns:
        raise DataError(
            f"{train.path} has no column '{label}': it has {', '.join(train.columns)}.",
            "Name one of them as the label.",
        )
    cells: list[str | None] = []
    with _readable(train):
        columns, how = understand(
            [name for name in train.columns if name != label], _with_labels(train, label, cells), str(train.path)
        )
    told = [
        f"read {len(cells)} rows of {len(columns)} columns from {train.path.name}, with '{label}' as the label",
        *passed, *how,
    ]  # fmt: skip
    labels = {"train": _labels(train, label, cells)}
    for split, shape in [one for one in shapes.items() if one[0] != "train"]:
        found = _cells(shape, label)
        if not any(cell is not None and cell.strip() for cell in found):
            told.append(f"{shape.path.name} has no labels and is left out")
            del shapes[split]
            continue
        if absent := [column.name for column in columns if column.name not in shape.columns]:
            raise DataError(f"{shape.path} has no column '{absent[0]}'.", "All splits need the same columns.")
        labels[split] = _labels(shape, label, found)
        told.append(f"read {len(found)} rows from {shape.path.name} as the {split} split")
    name = Path(request.name).name.split(".")[0]
    encoded, classes, renamed = encode(labels, None, Path(request.name).name)
    features = sum(len(column.features) for column in columns)
    parts = {
        split: Part(
            encoded[split], (features,), np.float32, partial(_read, shape, columns, request.missing), (shape.path,),
            column=f"all but {label}",
        )
        for split, shape in shapes.items()
    }  # fmt: skip
    return Opened(name, classes, parts, told=(*told, *renamed))


def _label_column(train: _Shape, others: list[_Shape]) -> str:
    """The column called like one, or the only one that a split without labels lacks, or the last."""
    lower = {name.lower(): name for name in reversed(train.columns)}
    lacking = [name for name in train.columns if any(name not in shape.columns for shape in others)]
    known = next((lower[name] for name in LABELS if name in lower), None)
    return known or (lacking[0] if len(lacking) == 1 else train.columns[-1])


def _files(path: Path) -> tuple[dict[str, Path], list[str]]:
    """Split to file, and a sentence on what a folder holds beside them.

    Raises:
        DataError: two files for one split, or several that name none.
    """
    if path.is_file():
        return {"train": path}, []
    tables = sorted(file for file in path.iterdir() if file.name.lower().endswith(SUFFIXES) and file.is_file())
    by_split = {split: files for split, files in split_files(tables, path, default="").items() if split}
    if not by_split and len(tables) == 1:
        by_split = {"train": tables}
    if "train" not in by_split or any(len(files) > 1 for files in by_split.values()):
        raise DataError(
            f"{path} holds the tables {', '.join(file.name for file in tables)}, and which of them is which split cannot be told.",
            "Call them train.csv and test.csv, or name one of them.",
        )
    chosen = {split: files[0] for split, files in by_split.items()}
    others = [
        file.name for file in sorted(path.iterdir()) if file not in chosen.values() and not file.name.startswith(".")
    ]
    return chosen, [f"passed over {', '.join(others)}"] if others else []


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
            packed = path.suffix.lower() == ".gz"
            if packed:
                # A file of gzip ends with its length, which is enough to know what would not fit.
                content = path.stat().st_size
                with open(path, "rb") as raw:
                    raw.seek(max(0, content - 4))
                    needed = int.from_bytes(raw.read(4), "little")
                refuse_tightly_packed(needed, content, f"{path} packs", "unpack it first")
            opened = gzip.open if packed else open
            with opened(path, "rt", newline="", encoding="utf-8-sig") as handle:
                line = handle.readline()
                delimiter = _delimiter(line)
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


def _delimiter(line: str) -> str:
    """The commonest of a line; commas within numbers are none where another one is there."""
    others = line if not any(mark in line for mark in DELIMITERS[1:]) else DECIMAL_COMMA.sub("", line)
    return max(DELIMITERS, key=others.count)


def _is_header(first: list[str], label: str | None) -> bool:
    """Whether the first line names the columns."""
    if {cell.lower() for cell in first} & set(LABELS) or label in first:
        return True
    # pandas writes the numbers of columns that have no names, after an empty cell where it writes the index too.
    numbers = [cell for cell in first if not is_index_name(cell)]
    if numbers == [str(place) for place in range(len(numbers))]:
        return True
    return not any(map(is_number, first))


def _with_labels(shape: _Shape, label: str, cells: list[str | None]) -> Iterator[pa.RecordBatch]:
    """All columns, batch by batch; the label's cells gather in `cells` on the way."""
    for batch in shape.stream(shape.columns):
        cells += batch.column(label).to_pylist()
        yield batch


@contextmanager
def _readable(shape: _Shape) -> Iterator[None]:
    """What pyarrow raises on a damaged file becomes a sentence."""
    try:
        yield
    except pa.ArrowException as error:
        raise _malformed(shape, error) from error


def _cells(shape: _Shape, label: str) -> list[str | None]:
    """The label's cells, none if there is no such column."""
    if label not in shape.columns:
        return []
    with _readable(shape):
        return [cell for batch in shape.stream([label]) for cell in batch.column(0).to_pylist()]


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
        if "\n" in cell.strip():
            raise DataError(
                f"The label (column '{column}') in {row_name(row)} of {shape.path} spans several lines: '{cell.strip()}'.",
                "Close the quotation mark there, or take it out.",
            )
    texts = [str(cell).strip() for cell in cells]
    numbers = np.array([number(text) for text in texts])
    return np.array(texts, dtype=object) if np.isnan(numbers).any() else numbers


def _read(shape: _Shape, columns: list[Column], missing: Missing, rows: np.ndarray | None) -> Iterator[np.ndarray]:
    first = 0
    with _readable(shape):
        for batch in shape.stream([column.name for column in columns]):
            numbers = np.arange(first, first + batch.num_rows)
            first += batch.num_rows
            if rows is not None:
                wanted = np.isin(numbers, rows, assume_unique=True)
                batch, numbers = batch.filter(pa.array(wanted)), numbers[wanted]
            if len(numbers):
                yield table_of(batch, columns, numbers, str(shape.path), missing)


def _malformed(shape: _Shape, error: Exception) -> DataError:
    reason = str(error).split("\n")[0].rstrip(".")
    return DataError(
        f"{shape.path} cannot be read as CSV: {reason}.", "Correct that line; every row needs the same columns."
    )
