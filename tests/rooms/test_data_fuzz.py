"""Damaged data: whatever bytes a reader meets, it reads them or says in a sentence why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from gracile.data import load
from tests.fuzz import bytes_of, survives
from tests.rooms.test_data_sources import CLASSES, encoded, image_columns, pixels, write_parquet


def _npz(folder: Path) -> Path:
    np.savez_compressed(folder / "t.npz", x=pixels(30), y=np.arange(30) % 2)
    return folder / "t.npz"


def _npy(folder: Path) -> Path:
    np.save(folder / "y.npy", np.arange(30) % 2)
    np.save(folder / "x.npy", np.random.default_rng(0).random((30, 4)))
    return folder / "x.npy"


def _parquet(folder: Path) -> Path:
    table = pa.table({"a": np.arange(60) / 7, "b": ["x", "y", "z"] * 20, "label": [0, 1] * 30})
    pq.write_table(table, folder / "t.parquet")
    return folder / "t.parquet"


def _images(folder: Path) -> Path:
    return write_parquet(folder / "t.parquet", image_columns(pixels(20)), CLASSES)


def _feather(folder: Path) -> Path:
    pyarrow.feather.write_feather(pa.table({"a": np.arange(60) / 7, "label": ["x", "y"] * 30}), folder / "t.feather")
    return folder / "t.feather"


def _csv(folder: Path) -> Path:
    rows = "".join(f"{row},{row / 7:.3f},{'xy'[row % 2]}\n" for row in range(40))
    (folder / "t.csv").write_text("id,a,label\n" + rows)
    return folder / "t.csv"


def _png(folder: Path) -> Path:
    for kind in ("cat", "dog"):
        (folder / kind).mkdir()
        for index, image in enumerate(pixels(6)):
            (folder / kind / f"{index}.png").write_bytes(encoded(image))
    return folder / "cat" / "3.png"


READERS = {
    "npz": _npz,
    "npy": _npy,
    "parquet": _parquet,
    "images": _images,
    "feather": _feather,
    "csv": _csv,
    "png": _png,
}


@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_read_or_refused_in_words(reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRACILE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    file = READERS[reader](tmp_path / "set")
    path = file.parent.parent if reader == "png" else file
    survives(lambda: load(path), bytes_of(file, reader))
