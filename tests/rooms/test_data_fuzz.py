"""Damaged files: whatever bytes a reader meets, it reads them or says in a sentence why not.

A few mutations a reader run with the suite; ``make fuzz`` runs 10,000 each.
"""

from __future__ import annotations

import io
import os
import random
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from gracile.core.errors import GracileError
from gracile.data import load
from tests.rooms.test_data_sources import CLASSES, encoded, image_columns, pixels, write_parquet

MUTATIONS = int(os.environ.get("GRACILE_FUZZ", "40"))
LONGEST = 20.0  # seconds for one small file, on a busy machine


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


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Bytes flipped, cut out, doubled, zeroed or cut off, one to four times."""
    found = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        place, length = draw.randrange(len(found) or 1), draw.choice([1, 1, 2, 4, 16, 64])
        match draw.randrange(6):
            case 0:
                found[place : place + 1] = bytes([draw.randrange(256)])
            case 1:
                del found[place : place + length]
            case 2:
                found[place:place] = found[place : place + length]
            case 3:
                found[place : place + length] = bytes(len(found[place : place + length]))
            case 4:
                found[place : place + length] = b"\xff" * len(found[place : place + length])
            case _:
                del found[place:]
    return bytes(found)


@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_read_or_refused_in_words(reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRACILE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    file = READERS[reader](tmp_path / "set")
    whole, draw = file.read_bytes(), random.Random(reader)
    path = file.parent.parent if reader == "png" else file
    for number in range(MUTATIONS):
        file.write_bytes(mutated(whole, draw))
        start, said = time.monotonic(), ""
        try:
            with warnings.catch_warnings():
                # What Pillow says of a damaged picture is no error of ours.
                warnings.simplefilter("ignore")
                load(path)
        except GracileError as error:
            said = str(error)
        assert "\n" not in said, number
        assert time.monotonic() - start < LONGEST, f"mutation {number} took {time.monotonic() - start:.1f} s"


def test_the_mutations_differ():
    draw, whole = random.Random(0), io.BytesIO(b"0123456789" * 10).getvalue()
    assert len({mutated(whole, draw) for _ in range(100)}) > 90
