"""What is wrong with data is told in one sentence that names the place, and another that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gracile.core.errors import DataError, GracileError, InputError, StorageError
from gracile.data import load
from tests.rooms.test_data_sources import CLASSES, encoded, image_columns, pixels, write_parquet


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRACILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GRACILE_DATA", raising=False)


def left_behind(tmp_path: Path) -> list[Path]:
    return [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]


def _csv(text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "t.csv").write_text(text)
        return folder / "t.csv"

    return write


def _parquet(columns: dict[str, Any], features: dict[str, Any] | None = None) -> Callable[[Path], Path]:
    return lambda folder: write_parquet(folder / "t.parquet", columns, features)


def _npz(**arrays: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.savez(folder / "t.npz", **arrays)
        return folder / "t.npz"

    return write


def _file(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def _cut_parquet(folder: Path) -> Path:
    file = write_parquet(folder / "t.parquet", image_columns(pixels(20)), CLASSES)
    file.write_bytes(file.read_bytes()[:-100])
    return file


def _spoilt_pages(folder: Path) -> Path:
    """The footer is whole and the data pages are not."""
    file = folder / "t.parquet"
    values = np.random.default_rng(0).integers(0, 9, 5000).astype(np.float64)
    pq.write_table(pa.table({"a": values, "label": [0, 1] * 2500}), file, compression="zstd", use_dictionary=False)
    content = bytearray(file.read_bytes())
    content[60:700] = bytes(640)
    file.write_bytes(content)
    return file


def _cut_npz(folder: Path) -> Path:
    file = folder / "t.npz"
    np.savez_compressed(file, x=pixels(50), y=np.arange(50) % 2)
    content = bytearray(file.read_bytes())
    content[300:600] = bytes(300)
    file.write_bytes(content)
    return file


def _with_image(index: int, image: Any) -> dict[str, Any]:
    columns = image_columns(pixels(20))
    columns["image"][index] = {"bytes": image, "path": None}
    return columns


def _folder(
    *, empty: bool = False, stray: bool = False, unknown: bool = False, damaged: bool = False, size: bool = False
):
    def write(root: Path) -> Path:
        home = root / "pets"
        for kind in ("cat", "dog"):
            (home / "train" / kind).mkdir(parents=True)
            for index, image in enumerate(pixels(5)):
                Image.fromarray(image).save(home / "train" / kind / f"{index}.png")
        if empty:
            (home / "train" / "fish").mkdir()
        if unknown:
            (home / "test" / "horse").mkdir(parents=True)
            Image.fromarray(pixels(1)[0]).save(home / "test" / "horse" / "0.png")
        if damaged:
            file = home / "train" / "dog" / "3.png"
            file.write_bytes(file.read_bytes()[:60])
        if size:
            Image.fromarray(pixels(1, height=9, width=9)[0]).save(home / "train" / "cat" / "3.png")
        return home / "train" / "cat" if stray else home

    return write


WHOLE = encoded(pixels(1)[0])
CASES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "path does not exist": (lambda folder: folder / "nothing.csv", r"The path .*nothing.csv does not exist"),
    "folder does not exist": (lambda folder: folder / "nowhere", r"The path .*nowhere does not exist"),
    "unknown kind of file": (_file("notes.txt", b"hello"), r"ends in '.txt'"),
    "empty class folder": (_folder(empty=True), r"class folder .*fish holds no images"),
    "no class folders": (_folder(stray=True), r"cat has no class folders"),
    "class that training lacks": (
        _folder(unknown=True),
        r"horse has no counterpart among the training classes cat, dog",
    ),
    "damaged image file": (_folder(damaged=True), r"dog/3.png cannot be read"),
    "image file of another size": (
        _folder(size=True),
        r"cat/3.png is 9x9 pixels while the first image is 6x4.*image_size=",
    ),
    "truncated image": (_parquet(_with_image(7, WHOLE[:70]), CLASSES), r"image in row 7 .* cannot be read"),
    "not an image": (_parquet(_with_image(7, b"not an image"), CLASSES), r"image in row 7 .* not an image"),
    "missing image": (_parquet(_with_image(7, None), CLASSES), r"image in row 7 .* holds no image"),
    "image of another size": (
        _parquet(_with_image(7, encoded(pixels(1, height=8)[0])), CLASSES),
        r"row 7 .* is 6x8 pixels .* 6x4.*image_size=",
    ),
    "16 bits per channel": (
        _parquet(_with_image(7, encoded(np.zeros((4, 6), dtype=np.uint16))), CLASSES),
        r"row 7 .* more than 8 bits",
    ),
    "corrupt parquet": (_cut_parquet, r"t.parquet cannot be read as parquet"),
    "corrupt pages": (_spoilt_pages, r"t.parquet cannot be read as parquet"),
    "text called parquet": (_file("t.parquet", b"a,b\n1,2\n"), r"cannot be read as parquet"),
    "no label column": (_parquet({"a": [1.0], "b": [2]}), r"No label column .* it has a, b"),
    "label column only": (_parquet({"label": [0, 1] * 9}), r"no column beside the label"),
    "column of names": (
        _parquet({"a": [f"n{i}" for i in range(60)], "label": [0, 1] * 30}),
        r"no column beside the label that can be learned from: column 'a' is text of which most rows have their own",
    ),
    "too many texts": (
        _parquet({"a": [f"n{i % 60}" for i in range(180)], "label": [0, 1] * 90}),
        r"'a' .* holds 60 different texts, more than 50",
    ),
    "column of lists": (_parquet({"a": [[1.0]] * 20, "label": [0, 1] * 10}), r"Column 'a' .* type list"),
    "one class": (_parquet({"a": [1.0] * 9, "label": [0] * 9}), r"one class only, '0'"),
    "no rows": (_parquet({"a": pa.array([], pa.float64()), "label": pa.array([], pa.int64())}), r"has no rows"),
    "missing label": (_parquet({"a": [1.0] * 4, "label": [0, None, 1, 0]}), r"label in row 1 .* is missing"),
    "fractional label": (_parquet({"a": [1.0] * 4, "label": [0.0, 1.0, 1.0, 0.5]}), r"row 3 .* not an integer: 0.5"),
    "label beyond the classes": (
        _parquet({"a": [1.0] * 4, "label": [0, 1, 2, 0]}, {"label": CLASSES["label"]}),
        r"row 2 .* outside the declared classes 0 to 1: 2",
    ),
    "labels that are identifiers": (
        _parquet({"a": [1.0] * 4, "label": [10001, 10002, 3, 4]}),
        r"4 different values in 4 rows.*not class numbers",
    ),
    "NaN feature": (
        _parquet({"a": [1.0] * 20, "b": [1.0] * 13 + [float("nan")] * 7, "label": [0, 1] * 10}),
        r"'b' .* empty \(nan\) in row 13.*missing=",
    ),
    "null feature": (_parquet({"a": [1] * 19 + [None], "label": [0, 1] * 10}), r"Column 'a' .* row 19"),
    "feature beyond float32": (
        _parquet({"a": [1.0] * 19 + [1e300], "label": [0, 1] * 10}),
        r"'a' .* 1e\+300 in row 19",
    ),
    "infinite feature": (
        _parquet({"a": [1.0] * 5 + [float("inf")] + [0.0] * 14, "label": [0, 1] * 10}),
        r"'a' .* inf in row 5",
    ),
    "cell that is no number": (
        _csv("a,b,label\n" + "1,2,0\n3,4,1\n" * 9 + "1,oops,0\n"),
        r"'b' .* holds 'oops' in row 18",
    ),
    "empty cell": (_csv("a,b,label\n" + "1,2,0\n3,4,1\n" * 9 + ",2,0\n"), r"Column 'a' .* in row 18"),
    "csv of one column": (_csv("a\n1\n2\n"), r"has one column"),
    "empty csv": (_csv(""), r"has no rows"),
    "csv of a header alone": (_csv("a,label\n"), r"has no rows"),
    "ragged csv": (_csv("a,b,label\n1,2,0\n1,2,3,4\n"), r"cannot be read as CSV"),
    "csv with a missing label": (_csv("a,label\n1,x\n2,\n"), r"label \(column 'label'\) in row 1 .* missing"),
    "csv with a fractional label": (_csv("a,label\n1,0\n2,0.5\n"), r"row 1 .* not an integer: 0.5"),
    "csv with a quotation mark left open": (
        _csv("a,label\n" + "1,x\n2,y\n" * 9 + '3,"x\n' + "4,y\n" * 3),
        r"label .* in row 18 .* spans several lines: 'x\\n4,y.*'\. Close the quotation mark",
    ),
    "csv with a column twice": (_csv("a,a,label\n1,2,0\n"), r"two columns named 'a'"),
    "binary called csv": (_file("t.csv", bytes(range(128, 255)) * 9), r"not a text file"),
    "npz without arrays": (_npz(pictures=pixels(4), labels=np.zeros(4)), r"holds the arrays pictures, labels"),
    "npz with pickled labels": (
        _npz(x=pixels(4), y=np.array(["a", None, 1, {}], dtype=object)),
        r"'y' .* pickled objects",
    ),
    "npz with pickled inputs": (_npz(x=np.array([{}, 1], dtype=object), y=np.zeros(2)), r"'x' .* pickled objects"),
    "npz of unequal lengths": (
        _npz(x=pixels(4), y=np.zeros(3, dtype=int)),
        r"shape \(4, 4, 6, 3\) and labels of shape \(3,\)",
    ),
    "npz with images of no known levels": (
        _npz(x=np.full((4, 5, 5), -0.5), y=np.arange(4) % 2),
        r"float64 from -0.5 to -0.5.*from 0 to 1",
    ),
    "npz with two channels": (
        _npz(x=np.zeros((4, 5, 5, 2), dtype=np.uint8), y=np.arange(4) % 2),
        r"neither 1 nor 3 channels",
    ),
    "npz with NaN": (
        _npz(x=np.full((20, 2), np.nan), y=np.arange(20) % 2),
        r"Column '0' of 'x' .* empty \(nan\) in row 0",
    ),
    "damaged npz": (_cut_npz, r"cannot be read as a NumPy archive"),
    "text called npz": (_file("t.npz", b"hello"), r"cannot be read as a NumPy archive"),
    "splits of different shapes": (
        _npz(x_train=pixels(20), y_train=np.arange(20) % 2, x_test=pixels(20, height=5), y_test=np.arange(20) % 2),
        r"different shapes: train \(3, 4, 6\), test \(3, 5, 6\)",
    ),
    "a class with one sample": (_csv("a,label\n" + "1,x\n2,y\n" * 9 + "3,z\n"), r"Class 'z' has one sample"),
    "only a test split": (
        lambda folder: write_parquet(folder / "set" / "test.parquet", image_columns(pixels(4))).parent,
        r"no training split",
    ),
}


@pytest.mark.parametrize("streamed", [False, True], ids=["memory", "streamed"])
@pytest.mark.parametrize("case", CASES)
def test_bad_data_is_named(case: str, streamed: bool, tmp_path: Path) -> None:
    make, message = CASES[case]
    with pytest.raises(DataError, match=message) as caught:
        load(make(tmp_path), max_bytes=0 if streamed else None)
    assert caught.value.remedy
    assert caught.value.cause.endswith(".")
    assert caught.value.remedy.endswith(".")
    assert "\n" not in str(caught.value)
    assert left_behind(tmp_path) == []


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(DataError, match=r"no data set named 'cifar-10'.*Did you mean 'cifar10'"):
        load("cifar-10")


def test_a_label_that_does_not_exist_lists_the_columns(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "t.parquet", {"a": [1.0], "b": [2]})
    with pytest.raises(DataError, match=r"no column 'c' .* it has a, b"):
        load(file, label="c")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_limit": 1000}, "train_limit of t asks for 1000 samples, and there are 29"),
        ({"test_limit": 1000}, "test_limit of t asks for 1000 samples, and there are 8"),
        ({"test_limit": 1}, "fewer than the 2 classes"),
        ({"validation": 1000}, "validation split of t asks for 1000 samples"),
    ],
)
def test_more_than_there_is_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", x=pixels(40), y=np.arange(40) % 2)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "t.npz", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"validation": -0.1},
        {"validation": 1.0},
        {"validation": True},
        {"train_limit": 0},
        {"image_size": 0},
        {"max_bytes": -1},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        load("digits", **options)


def test_a_set_that_is_nowhere_says_where_it_was_sought(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"letter is not in .*letter.*GRACILE_DATA"):
        load("letter", root=tmp_path)


def test_a_letter_set_cut_short_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "letter" / "data.parquet", {"a": [1.0] * 20, "label": [0, 1] * 10})
    with pytest.raises(DataError, match="letter has 20 rows"):
        load("letter", root=tmp_path)


@pytest.mark.parametrize("name", ["mnist", "somebody/pets"])
def test_an_unreachable_hub_says_so(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def snapshot_download(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("Cannot find an appropriate cached snapshot folder. And much more.")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(DataError, match="hub") as caught:
        load(name, root=tmp_path)
    assert "much more" not in str(caught.value)
    assert "folder" in caught.value.remedy or "GRACILE_DATA" in caught.value.remedy


def test_a_hub_set_without_parquet_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(DataError, match="no parquet files"):
        load("somebody/pets")


def test_a_set_too_large_for_the_cache_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", x=pixels(40), y=np.arange(40) % 2)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GRACILE_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="GRACILE_CACHE"):
        load(tmp_path / "t.npz", max_bytes=0)


def test_an_error_is_of_the_kind_the_command_line_prints() -> None:
    assert issubclass(DataError, GracileError)


def test_a_kill_while_decoding_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "t.parquet", image_columns(pixels(40)), CLASSES)
    from gracile.data import images

    monkeypatch.setattr(images, "_fill", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        load(file, max_bytes=0)
    assert left_behind(tmp_path) == []
    assert pq.read_table(file).num_rows == 40


def test_texts_that_are_no_utf8_name_their_column(tmp_path: Path) -> None:
    offsets, letters = pa.py_buffer(np.array([0, 1, 2, 3], np.int32)), pa.py_buffer(b"a\xffb")
    broken = pa.StringArray.from_buffers(3, offsets, letters)
    pq.write_table(pa.table({"word": broken, "x": [1.0, 2.0, 3.0], "label": [0, 1, 0]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"Column 'word' of .* cannot be read: Invalid UTF8.*texts as UTF-8"):
        load(tmp_path / "t.parquet")
