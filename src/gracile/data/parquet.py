"""Parquet and Arrow files in the layout of Hugging Face data sets: encoded images or columns of a table, and a label column."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gracile.core.errors import DataError
from gracile.data import images
from gracile.data.columns import Column, readable, table_of, understand
from gracile.data.labels import encode
from gracile.data.source import (
    COLUMNAR,
    Missing,
    Opened,
    Part,
    Request,
    check_same_shape,
    chunk_rows,
    refuse_tightly_packed,
    row_name,
)

SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}
LABELS = ("label", "labels", "class", "target")
IMAGES = ("image", "img", "images", "png", "jpg")


def open_source(request: Request) -> Opened:
    """Open one parquet, Arrow or Feather file, or a folder of them.

    Raises:
        DataError: see `open_splits`.
    """
    path = Path(request.name)
    if path.is_file():
        return open_splits({"train": [path]}, request, name=path.stem)
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in COLUMNAR)
    return open_splits(by_split(files, path), request, name=path.resolve().name)


def by_split(files: list[Path], root: Path, default: str = "train") -> dict[str, list[Path]]:
    """Sort the files of a data set into splits.

    The split is told by a word in the file's name (``test-00000-of-00001.parquet``) or by the name of a folder between
    `root` and the file (``test/0000.parquet``); a file that tells none goes to the `default`.
    """
    found: dict[str, list[Path]] = {}
    for file in files:
        # Folders above the root are the user's own affair: one called "test" says nothing about the data.
        words = [*re.split(r"[^a-z]+", file.stem.lower()), *reversed(file.relative_to(root).parent.parts)]
        found.setdefault(next((SPLITS[word] for word in words if word in SPLITS), default), []).append(file)
    return found


def open_splits(files: dict[str, list[Path]], request: Request, *, name: str) -> Opened:
    """Open the parquet files of each split.

    Raises:
        DataError: a file is corrupt, or the label or features are missing or no numbers.
    """
    if "train" not in files:
        raise DataError(
            f"{name} has no training split, only {', '.join(files)}.",
            "Add files with 'train' in their names, or pass the one file to be split.",
        )
    tables = {split: _Table.open(parts, name, split) for split, parts in files.items()}
    train = tables["train"]
    label, declared = _label_column(train, request.label)
    order = sorted(tables, key=lambda split: split != "train")
    told = [f"read {tables[split].rows} rows of the {split} split of {name}" for split in order]
    told.append(f"the label is column '{label}'")
    for split in [split for split, table in tables.items() if split != "train" and not table.has_labels(label)]:
        told.append(f"the {split} split has no labels and is left out")
        del tables[split]
    encoded, classes, renamed = encode({split: table.labels(label) for split, table in tables.items()}, declared, name)
    told += renamed
    image = _image_column(train, label)
    if image is None:
        columns, how = _columns(train, label)
        told += how
        parts = {
            split: _feature_part(table, columns, encoded[split], request.missing) for split, table in tables.items()
        }
        note = ""
    else:
        if left := [column for column in train.schema.names if column not in (label, image)]:
            told.append(f"read the images of column '{image}'; left out: {', '.join(left)}")
        probes = {
            split: images.probe(_first_images(table, image), request.image_size) for split, table in tables.items()
        }
        channels = request.channels or max(layout.shape[0] for layout, _ in probes.values())
        note = next((note for _, note in probes.values() if note), "")
        parts = {}
        for split, table in tables.items():
            layout = images.with_channels(probes[split][0], channels, forced=request.channels is not None)
            part = _image_part(table, image, encoded[split], layout)
            if request.skip_corrupt:
                part, dropped = images.without_corrupt(part, lambda table=table: _all_images(table, image), layout)
                told += dropped
            parts[split] = part
    check_same_shape(parts, name)
    return Opened(name, classes, parts, note, tuple(told))


@dataclass(frozen=True)
class _Table:
    """The files of one split."""

    files: tuple[Path, ...]
    schema: pa.Schema
    features: dict[str, Any]
    where: str

    @staticmethod
    def open(files: list[Path], name: str, split: str) -> _Table:
        schemas = [_guarded(file, lambda file=file: _schema(file)) for file in files]
        for file, schema in zip(files, schemas, strict=True):
            if schema.names != schemas[0].names:
                raise DataError(
                    f"{file} has the columns {', '.join(schema.names)}, and {files[0].name} has "
                    f"{', '.join(schemas[0].names)}.",
                    "Load files of one data set at a time.",
                )
        try:
            described = json.loads((schemas[0].metadata or {}).get(b"huggingface", b"{}"))
            features = described.get("info", {}).get("features", {})
        except (ValueError, AttributeError):
            features = {}
        try:
            # Shards written one by one may hold the same integers in types of different width.
            schema = pa.unify_schemas([schema.remove_metadata() for schema in schemas], promote_options="permissive")
        except pa.ArrowException as error:
            raise DataError(
                f"The files of {name} hold different kinds of values under one name: {str(error).splitlines()[0]}.",
                "Load files of one data set at a time.",
            ) from error
        return _Table(
            tuple(files), schema, features if isinstance(features, dict) else {}, f"the {split} split of {name}"
        )

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(_guarded(file, lambda file=file: _row_count(file)) for file in self.files)

    def has_labels(self, column: str) -> bool:
        """Whether the split has labels at all: the column is there, and some cell is neither empty nor -1."""
        if column not in self.schema.names:
            return False
        values = self._column(column)
        if values.null_count == len(values) and len(values):
            return False
        whole = pa.types.is_integer(values.type) and len(values)
        return not (whole and values.unique().to_pylist() == [-1])

    def _column(self, name: str) -> pa.ChunkedArray:
        kind = self.schema.field(name).type
        chunks = [chunk.cast(kind) for batch, _ in self.batches([name], None, 2**16) for chunk in (batch.column(0),)]
        return pa.chunked_array(chunks, type=kind)

    def kind(self, column: str) -> str:
        feature = self.features.get(column)
        return feature.get("_type", "") if isinstance(feature, dict) else ""

    def labels(self, column: str) -> np.ndarray:
        if column not in self.schema.names:
            raise DataError(f"{self.where} has no column '{column}': it has {', '.join(self.schema.names)}.", "Add it.")
        values = self._column(column)
        if values.null_count:
            row = values.is_null().to_pylist().index(True)
            raise DataError(
                f"The label in {row_name(row)} of {self.where} is missing.", "Fill the label in or drop the row."
            )
        plain = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
        return _guarded(self.files[0], lambda: values.cast(plain).to_numpy())

    def batches(
        self, columns: list[str], rows: np.ndarray | None, size: int
    ) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
        """Batches of some columns with the numbers of their rows; row groups without a wanted row are not read."""
        first = 0
        for path in self.files:
            for batch in _batches(path, columns, first, rows, size):
                if isinstance(batch, int):
                    first += batch
                    continue
                numbers = np.arange(first, first + batch.num_rows)
                first += batch.num_rows
                if rows is not None:
                    wanted = np.isin(numbers, rows, assume_unique=True)
                    batch, numbers = batch.filter(pa.array(wanted)), numbers[wanted]
                if batch.num_rows:
                    yield batch, numbers


def _is_arrow(path: Path) -> bool:
    return path.suffix.lower() in (".arrow", ".feather")


def _schema(path: Path) -> pa.Schema:
    if _is_arrow(path):
        with _arrow_reader(path) as reader:
            schema = reader.schema
    else:
        schema = pq.read_schema(path)
    # Decoded when they are looked at, here where a name that is no text is known for damage.
    _ = schema.names
    return schema


def _row_count(path: Path) -> int:
    """How many rows a file declares; one that would fill the memory is refused here, before any of them is read."""
    if not _is_arrow(path):
        declared = pq.read_metadata(path)
        refuse_tightly_packed(
            4 * declared.num_rows * declared.num_columns, path.stat().st_size, f"{path} packs {declared.num_rows:,} rows, ",
            "write it without compression and dictionaries",
        )  # fmt: skip
        return declared.num_rows
    return sum(batch.num_rows for batch in _arrow_batches(path))


def _arrow_reader(path: Path) -> Any:
    """Of the file format (Feather) or of the stream format (`datasets` on disk)."""
    source = pa.memory_map(str(path))
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source)


def _arrow_batches(path: Path) -> Iterator[pa.RecordBatch]:
    with _arrow_reader(path) as reader:
        if isinstance(reader, pa.ipc.RecordBatchFileReader):
            yield from (reader.get_batch(place) for place in range(reader.num_record_batches))
        else:
            yield from reader


def _batches(
    path: Path, columns: list[str], first: int, rows: np.ndarray | None, size: int
) -> Iterator[pa.RecordBatch | int]:
    """Batches of one file; a number in place of so many rows that were not read, because none of them is wanted."""
    if _is_arrow(path):
        stream = _arrow_batches(path)
        while (batch := _guarded(path, lambda: next(stream, None))) is not None:
            chosen = batch.select(columns)
            # Arrow takes offsets as they stand in the file: damaged ones would be read from outside of it.
            _guarded(path, lambda chosen=chosen: chosen.validate(full=True))
            yield from (chosen.slice(start, size) for start in range(0, chosen.num_rows, size))
        return
    file = _guarded(path, lambda: pq.ParquetFile(path))
    with file:
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if rows is not None and not np.any((rows >= first) & (rows < first + count)):
                yield count
            else:
                stream = file.iter_batches(size, row_groups=[group], columns=columns, use_threads=False)
                while (batch := _guarded(path, lambda stream=stream: next(stream, None))) is not None:
                    yield batch
            first += count


def _guarded(file: Path, action: Any) -> Any:
    """Run a pyarrow call and turn what it raises on damaged files into one sentence."""
    try:
        return action()
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        kind = "Arrow" if _is_arrow(file) else "parquet"
        raise DataError(
            f"{file} cannot be read as {kind}: {reason}.", "The file is damaged: fetch it again."
        ) from error


def _label_column(table: _Table, asked: str | None) -> tuple[str, tuple[str, ...] | None]:
    names = table.schema.names
    declared = [name for name in names if table.kind(name) == "ClassLabel"]
    likely = [*[name for name in LABELS if name in names], *(declared if len(declared) == 1 else [])]
    if asked is not None and asked not in names:
        raise DataError(
            f"There is no column '{asked}' in {table.where}: it has {', '.join(names)}.", "Name one of them."
        )
    if asked is None and not likely:
        raise DataError(
            f"No label column is to be found in {table.where}: it has {', '.join(names)}.",
            "Name one of them with label=.",
        )
    label = asked or likely[0]
    class_names = table.features[label].get("names") if table.kind(label) == "ClassLabel" else None
    return label, tuple(str(name) for name in class_names) if isinstance(class_names, list) else None


def _image_column(table: _Table, label: str) -> str | None:
    """The column of encoded images, or None where the features are numbers."""

    def holds_bytes(name: str) -> bool:
        kind = table.schema.field(name).type
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    found = [name for name in table.schema.names if name != label and holds_bytes(name)]
    preferred = [name for name in found if table.kind(name) == "Image" or name in IMAGES]
    return next(iter([*preferred, *found]), None)


def _encoded_images(batch: pa.RecordBatch, numbers: np.ndarray, where: str) -> list[images.Encoded]:
    column = batch.column(0)
    if pa.types.is_struct(column.type):
        column = column.field("bytes")
    return [
        images.Encoded(content, f"The image in {row_name(int(number))} of {where}")
        for content, number in zip(column.to_pylist(), numbers, strict=True)
    ]


def _first_images(table: _Table, column: str) -> list[images.Encoded]:
    first = next(table.batches([column], None, images.PROBED), None)
    if first is None:
        raise DataError(f"There are no rows in {table.where}.", "Load a data set with samples.")
    return _encoded_images(*first, table.where)


def _image_part(table: _Table, column: str, labels: np.ndarray, layout: images.Layout) -> Part:
    return Part(
        labels,
        layout.shape,
        np.uint8,
        partial(_read_images, table, column, layout),
        table.files,
        encoded=True,
        column=column,
        options=layout.describe(),
    )


def _read_images(table: _Table, column: str, layout: images.Layout, rows: np.ndarray | None) -> Iterator[np.ndarray]:
    batches = table.batches([column], rows, chunk_rows(layout.shape))
    return images.decode((_encoded_images(batch, numbers, table.where) for batch, numbers in batches), layout)


def _all_images(table: _Table, column: str) -> Iterator[list[images.Encoded]]:
    return (_encoded_images(batch, numbers, table.where) for batch, numbers in table.batches([column], None, 1024))


def _columns(table: _Table, label: str) -> tuple[list[Column], list[str]]:
    names = [name for name in table.schema.names if name != label]
    for name in names:
        kind = table.schema.field(name).type
        if not readable(kind):
            raise DataError(
                f"Column '{name}' of {table.where} is of type {kind}: no number, text, boolean or image.",
                "Drop the column, or turn it into numbers.",
            )
    if not names:
        raise DataError(
            f"{table.where} has no column beside the label '{label}'.", "Load a file with features or images."
        )
    return understand(names, (batch for batch, _ in table.batches(names, None, 2**14)), table.where)


def _feature_part(table: _Table, columns: list[Column], labels: np.ndarray, missing: Missing) -> Part:
    absent = [column.name for column in columns if column.name not in table.schema.names]
    if absent:
        raise DataError(f"{table.where} has no column '{absent[0]}'.", "All splits need the same columns.")
    features = sum(len(column.features) for column in columns)
    names = ",".join(column.name for column in columns)
    return Part(
        labels, (features,), np.float32, partial(_read_features, table, columns, missing), table.files, column=names
    )


def _read_features(
    table: _Table, columns: list[Column], missing: Missing, rows: np.ndarray | None
) -> Iterator[np.ndarray]:
    names = [column.name for column in columns]
    for batch, numbers in table.batches(names, rows, chunk_rows((len(names),), 8)):
        yield table_of(batch, columns, numbers, table.where, missing)
