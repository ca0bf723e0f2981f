"""Data as people have it: what used to be read wrongly in silence, or refused without need."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gracile.core.errors import DataError, InputError
from gracile.data import load, source
from tests.rooms.test_data_sources import image_columns, pixels, write_parquet


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRACILE_CACHE", str(tmp_path / "cache"))


def csv(folder: Path, text: str, name: str = "t.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


def photos(folder: Path, *classes: str, n: int = 10) -> Path:
    for number, kind in enumerate(classes):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(pixels(n, seed=number)):
            Image.fromarray(image).save(folder / kind / f"{index}.png")
    return folder


# Tables


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "id", "index", "user_id", "PassengerId", "row ID"])
@pytest.mark.parametrize("shuffled", [False, True], ids=["sorted", "shuffled"])
def test_a_column_that_numbers_the_rows_is_no_feature(name: str, shuffled: bool, tmp_path: Path):
    """It gives the label away of what was sorted by class when it was numbered, in whatever order it stands now."""
    order = np.random.default_rng(0).permutation(40) if shuffled else range(40)
    rows = "".join(f"{row},{row % 7},{int(row >= 20)}\n" for row in order)
    splits = load(csv(tmp_path, f"{name},a,label\n{rows}"))
    assert splits.train.input_shape == (1,)
    assert any(f"'{name}' only numbers the rows" in sentence for sentence in splits.told)


def test_a_column_called_id_that_repeats_is_a_feature(tmp_path: Path):
    rows = "".join(f"{row % 5},{row % 7},{row % 2}\n" for row in range(40))
    assert load(csv(tmp_path, f"id,a,label\n{rows}")).train.input_shape == (2,)


def test_names_dates_and_keys_are_no_categories(tmp_path: Path):
    """One feature for each row would be learned by heart."""
    rows = "".join(f"Mr {row},2026-01-{row % 28 + 1:02d},{row % 7},{row % 2}\n" for row in range(40))
    splits = load(csv(tmp_path, f"name,when,a,label\n{rows}"))
    assert splits.train.input_shape == (1,)
    assert sum("text of which most rows have their own" in sentence for sentence in splits.told) == 2


@pytest.mark.parametrize("header", ["a;b;label\n", ""], ids=["header", "none"])
def test_decimal_commas_are_numbers(header: str, tmp_path: Path):
    """They became a category for each number."""
    rows = "".join(f"{row},5;{row % 3},25;{'xy'[row % 2]}\n" for row in range(40))
    splits = load(csv(tmp_path, header + rows), validation=0)
    found = sorted(splits.train.inputs.tolist() + splits.test.inputs.tolist())
    assert found == [[row + 0.5, row % 3 + 0.25] for row in range(40)]
    assert any("decimal comma" in sentence for sentence in splits.told)


@pytest.mark.parametrize("cell", ['"{},100"', '"1.{}00,50"', "{} %", "$ {}"])
def test_what_may_be_a_number_is_refused_rather_than_guessed(cell: str, tmp_path: Path):
    rows = "".join(f"{cell.format(row % 9 + 1)},{row % 2}\n" for row in range(40))
    with pytest.raises(DataError, match=r"'a' .* looks like numbers and cannot be read as such for sure"):
        load(csv(tmp_path, f"a,label\n{rows}"))


def test_a_question_mark_is_an_empty_cell(tmp_path: Path):
    rows = "".join(f"{'?' if row % 4 == 0 else row},{row % 2}\n" for row in range(40))
    dropped = load(csv(tmp_path, f"a,label\n{rows}"), missing="drop")
    assert sum(map(len, (dropped.train, dropped.validation, dropped.test))) == 30


def test_a_folder_of_tables_as_competitions_hand_them_out(tmp_path: Path):
    """The test table lacks the label, which is thereby known though it is neither called so nor last."""
    rows = [(row, row % 2, row % 7) for row in range(40)]
    csv(tmp_path, "id,survived,a\n" + "".join(f"{one},{two},{three}\n" for one, two, three in rows), "train.csv")
    csv(tmp_path, "id,a\n" + "".join(f"{one},{three}\n" for one, _, three in rows), "test.csv")
    csv(tmp_path, "id,survived\n1,0\n", "sample_submission.csv")
    splits = load(tmp_path)
    assert (splits.train.input_shape, splits.train.classes) == ((1,), ("0", "1"))
    told = " ".join(splits.told)
    assert "'survived' as the label" in told
    assert "passed over sample_submission.csv" in told
    assert "test.csv has no labels and is left out" in told


def test_a_folder_of_tables_with_labels_keeps_its_splits(tmp_path: Path):
    table = lambda first: "a,label\n" + "".join(f"{row},{row % 2}\n" for row in range(first, first + 20))
    csv(tmp_path, table(0), "train.csv")
    csv(tmp_path, table(20), "test.csv")
    splits = load(tmp_path, validation=0)
    assert sorted(splits.test.inputs[:, 0].tolist()) == list(range(20, 40))
    csv(tmp_path, table(40), "second-train.csv")
    with pytest.raises(DataError, match="which of them is which split cannot be told"):
        load(tmp_path)


def test_the_index_that_pandas_keeps_in_parquet_is_no_feature(tmp_path: Path):
    columns = {"a": [0.5, 1.5] * 20, "label": [0, 1] * 20, "__index_level_0__": list(range(40))}
    assert load(write_parquet(tmp_path / "t.parquet", columns)).train.input_shape == (1,)


@pytest.mark.parametrize("header", ["0,1,2", ",0,1,2"])
def test_numeric_headers_are_no_sample(header: str, tmp_path: Path):
    index = header.startswith(",")
    rows = "".join((f"{row}," if index else "") + f"{row % 7},{row % 5},{row % 2}\n" for row in range(40))
    splits = load(csv(tmp_path, f"{header}\n{rows}"))
    assert splits.train.input_shape == (2,)
    assert sum(map(len, (splits.train, splits.validation, splits.test))) == 40


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_separators_and_gzip(delimiter: str, packed: bool, tmp_path: Path):
    text = "a|b|label\n1|2|x\n3|4|y\n".replace("|", delimiter) * 1 + "1|2|x\n3|4|y\n".replace("|", delimiter) * 20
    path = csv(tmp_path, text)
    if packed:
        path = tmp_path / "t.csv.gz"
        path.write_bytes(gzip.compress(text.encode()))
    splits = load(path)
    assert (splits.train.classes, splits.train.input_shape, splits.train.name) == (("x", "y"), (2,), "t")


def test_text_becomes_one_hot_and_booleans_one_number(tmp_path: Path):
    colours, labels = ["red", "green", "blue"], [0, 1]
    rows = [(colours[i % 3], ["no", "yes"][i % 2], i, labels[i % 2]) for i in range(60)]
    text = "colour,sure,a,label\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)
    splits = load(csv(tmp_path, text), validation=0)
    assert splits.train.input_shape == (5,)
    for x, y in zip(splits.train.inputs.tolist(), splits.train.labels.tolist(), strict=True):
        number = int(x[4])
        assert x[:3] == [float(colours[number % 3] == name) for name in ("blue", "green", "red")]
        assert x[3] == number % 2 == y
    assert any("'colour' is text" in sentence for sentence in splits.told)


def test_booleans_of_parquet_are_numbers(tmp_path: Path):
    columns = {"flag": [True, False] * 20, "a": [0.5] * 40, "label": [0, 1] * 20}
    splits = load(write_parquet(tmp_path / "t.parquet", columns))
    assert set(splits.train.inputs[:, 0].tolist()) == {0.0, 1.0}


def test_a_word_among_numbers_is_an_error_and_no_category(tmp_path: Path):
    with pytest.raises(DataError, match=r"'a' .* holds 'oops' in row 30"):
        load(csv(tmp_path, "a,b,label\n" + "1,2,0\n3,4,1\n" * 15 + "oops,2,0\n" + "5,6,1\n" * 9))


def test_missing_cells_are_filled_with_the_training_mean_or_dropped(tmp_path: Path):
    rows = [f"{'' if row % 8 == 0 else row},{row % 3},{row % 2}" for row in range(80)]
    path = csv(tmp_path, "a,b,label\n" + "\n".join(rows) + "\n")
    with pytest.raises(DataError, match=r'empty \(nan\) in row 0.*missing="mean"'):
        load(path)
    dropped = load(path, missing="drop")
    assert sum(map(len, (dropped.train, dropped.validation, dropped.test))) == 70
    filled = load(path, missing="mean")
    assert sum(map(len, (filled.train, filled.validation, filled.test))) == 80
    known = [value for value in filled.train.inputs[:, 0].tolist() if value == int(value)]
    odd = {value for split in (filled.train, filled.test) for value in split.inputs[:, 0].tolist()} - set(range(80))
    assert odd <= {float(np.float32(np.mean(known)))}
    with pytest.raises(InputError, match="streamed"):
        load(path, missing="mean", max_bytes=0)
    with pytest.raises(InputError, match="way with missing cells named 'median'"):
        load(path, missing="median")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("values", "classes"), [((-1, 1), ("-1", "1")), ((10, 20, 30), ("10", "20", "30"))])
def test_labels_that_do_not_count_from_zero(values: tuple[int, ...], classes: tuple[str, ...], tmp_path: Path):
    rows = "".join(f"{row % 9},{values[row % len(values)]}\n" for row in range(90))
    splits = load(csv(tmp_path, f"a,label\n{rows}"))
    assert splits.train.classes == classes
    assert set(splits.train.labels.tolist()) == set(range(len(classes)))
    assert any("each is a class of that name" in sentence for sentence in splits.told)


def test_shards_of_different_integer_types(tmp_path: Path):
    for number, kind in enumerate((pa.int32(), pa.int64())):
        table = pa.table({"a": pa.array([1, 2] * 20, kind), "label": pa.array([0, 1] * 20, kind)})
        (tmp_path / "set").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "set" / f"train-{number}.parquet")
    splits = load(tmp_path / "set")
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 80


@pytest.mark.parametrize("labels", [[-1] * 8, [None] * 8, None], ids=["minus one", "null", "no column"])
def test_a_test_split_without_labels_is_dropped_and_told(labels, tmp_path: Path):
    write_parquet(tmp_path / "set" / "train.parquet", {"a": [0.5, 1.5] * 20, "label": [0, 1] * 20})
    columns = {"a": [0.5] * 8} | ({} if labels is None else {"label": pa.array(labels, pa.int64())})
    write_parquet(tmp_path / "set" / "test.parquet", columns)
    splits = load(tmp_path / "set")
    assert "the test split has no labels and is left out" in splits.told
    assert len(splits.test) == 8
    assert "held out" in splits.test.note


@pytest.mark.parametrize("kind", ["feather", "stream"])
def test_arrow_and_feather(kind: str, tmp_path: Path):
    table = pa.table({"a": [0.5, 1.5] * 20, "label": ["x", "y"] * 20})
    path = tmp_path / ("t.feather" if kind == "feather" else "t.arrow")
    if kind == "feather":
        pyarrow.feather.write_feather(table, path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
    splits = load(path, validation=0)
    assert splits.train.classes == ("x", "y")
    assert all((x == 1.5) == y for x, y in zip(splits.train.inputs[:, 0], splits.train.labels, strict=True))


# Arrays


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.uint16])
def test_images_of_other_types(kind: type, tmp_path: Path):
    images = pixels(40)
    stored = (images / 255).astype(kind) if np.issubdtype(kind, np.floating) else images.astype(kind)
    np.savez(tmp_path / "t.npz", x_train=stored, y_train=np.arange(40) % 2, x_test=stored, y_test=np.arange(40) % 2)
    splits = load(tmp_path / "t.npz")
    np.testing.assert_array_equal(splits.test.inputs.numpy(), images.transpose(0, 3, 1, 2))
    assert any("8-bit images" in sentence for sentence in splits.told)


def test_one_hot_labels(tmp_path: Path):
    labels = np.arange(40) % 3
    x, one_hot = np.arange(40.0)[:, None], np.eye(3)[labels]
    np.savez(tmp_path / "t.npz", x_train=x, y_train=one_hot, x_test=x, y_test=one_hot)
    assert load(tmp_path / "t.npz").test.labels.tolist() == labels.tolist()


def test_files_of_arrays(tmp_path: Path):
    np.save(tmp_path / "x.npy", np.arange(40.0)[:, None])
    np.save(tmp_path / "y.npy", np.arange(40) % 2)
    for path in (tmp_path, tmp_path / "x.npy"):
        splits = load(path)
        assert len(splits.train) + len(splits.validation) + len(splits.test) == 40


def test_offsets_that_point_out_of_an_arrow_file_are_refused(tmp_path: Path):
    """Arrow takes them as they stand, and the process was killed."""
    table, path = pa.table({"a": np.arange(60) / 7, "label": ["x", "y"] * 30}), tmp_path / "t.feather"
    pyarrow.feather.write_feather(table, path, compression="uncompressed")
    offsets = np.arange(61, dtype=np.int32)
    assert offsets.tobytes() in path.read_bytes()
    damaged = np.where(offsets == 30, 2**30, offsets).astype(np.int32)
    path.write_bytes(path.read_bytes().replace(offsets.tobytes(), damaged.tobytes()))
    with pytest.raises(DataError, match="cannot be read as Arrow"):
        load(path)


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return path


def stored(array: np.ndarray, shape: tuple[int, ...] | None = None) -> bytes:
    buffer = io.BytesIO()
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape or array.shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + array.tobytes()


def test_an_archive_that_claims_more_than_it_holds_is_refused_at_once(tmp_path: Path):
    """Eight terabytes were asked for before the first byte was read."""
    labels = stored(np.arange(40) % 2)
    path = archive(tmp_path / "t.npz", {"x.npy": stored(np.zeros((40, 3)), (2**40, 3)), "y.npy": labels})
    with pytest.raises(DataError, match=r"declares .* bytes and holds 960"):
        load(path)
    path = archive(tmp_path / "u.npz", {"x.npy": stored(np.zeros((40, 3))), "y.npy": stored(np.zeros(4), (2**40,))})
    with pytest.raises(DataError, match=r"declares .* bytes and holds 32"):
        load(path)


def test_an_archive_packed_too_tightly_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(source, "SUSPICIOUS_BYTES", 10_000)
    path = archive(tmp_path / "t.npz", {"x.npy": stored(np.zeros((4000, 3))), "y.npy": stored(np.arange(4000) % 2)})
    with pytest.raises(DataError, match=r"packs 'x.npy', .* GiB in memory"):
        load(path)
    table = pa.table({"a": np.zeros(40_000, np.float32), "label": np.arange(40_000) // 20_000})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"packs 40,000 rows, .* GiB in memory .* without compression"):
        load(tmp_path / "t.parquet")
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"a,label\n" + b"1,0\n" * 40_000))
    with pytest.raises(DataError, match=r"packs .* GiB in memory .* unpack it first"):
        load(tmp_path / "t.csv.gz")


@pytest.mark.parametrize(
    "names", ["train_images train_labels test_images test_labels", "data target", "X_train Y_train"]
)
def test_arrays_go_by_other_names_too(names: str, tmp_path: Path):
    x, y = pixels(40)[..., 0], np.arange(40) % 2
    np.savez(tmp_path / "t.npz", **{name: y if place % 2 else x for place, name in enumerate(names.split())})
    assert len(load(tmp_path / "t.npz", validation=0).train) == (40 if "test" in names else 32)


def test_levels_that_were_interpolated_are_levels(tmp_path: Path):
    x = np.random.default_rng(0).random((40, 4, 4)) * 255
    np.savez(tmp_path / "t.npz", x=x, y=np.arange(40) % 2)
    found = load(tmp_path / "t.npz", validation=0).train.inputs
    assert set(found.flatten().tolist()) <= set(np.rint(x).flatten())
    np.savez(tmp_path / "t.npz", x=x / 100, y=np.arange(40) % 2)
    with pytest.raises(DataError, match="are float64 from 0"):
        load(tmp_path / "t.npz")


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".pbm", ".JPG"])
def test_other_suffixes_of_images(suffix: str, tmp_path: Path):
    photos(tmp_path, "cat", "dog")
    Image.new("1" if suffix == ".pbm" else "L", pixels(1)[0].shape[1::-1]).save(
        tmp_path / "cat" / f"other{suffix}", "PPM" if suffix == ".pbm" else "JPEG"
    )
    assert "read 21 images of 2 classes as the train split" in load(tmp_path).told


# Folders


def test_a_folder_one_level_too_deep_is_entered_and_told(tmp_path: Path):
    """It used to train one class, `images`, to 100 %."""
    photos(tmp_path / "set" / "images", "cat", "dog")
    splits = load(tmp_path / "set")
    assert splits.train.classes == ("cat", "dog")
    assert any("holds nothing but" in sentence for sentence in splits.told)


def test_one_class_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="one class folder only, 'cat'"):
        load(photos(tmp_path / "set", "cat"))


def test_a_class_called_train_is_a_class(tmp_path: Path):
    assert load(photos(tmp_path / "vehicles", "train", "bus", "car")).train.classes == ("bus", "car", "train")


def test_a_split_beside_classes_cannot_be_told(tmp_path: Path):
    photos(tmp_path / "set", "cat", "dog")
    photos(tmp_path / "set" / "train", "cat", "dog")
    with pytest.raises(DataError, match=r"train/ with folders inside.*beside cat/, dog/"):
        load(tmp_path / "set")


def test_two_folders_for_one_split_are_refused(tmp_path: Path):
    for split in ("train", "val", "valid"):
        photos(tmp_path / "set" / split, "cat", "dog")
    with pytest.raises(DataError, match=r"both val/ and valid/"):
        load(tmp_path / "set")


def test_what_is_no_image_or_lies_elsewhere_is_told(tmp_path: Path):
    photos(tmp_path / "set", "cat", "dog")
    (tmp_path / "set" / "readme.txt").write_text("")
    (tmp_path / "set" / "cat" / "notes.xcf").write_text("")
    Image.fromarray(pixels(1)[0]).save(tmp_path / "set" / "stray.png")
    told = " ".join(load(tmp_path / "set").told)
    assert "passed over 3 file(s)" in told
    for name in ("readme.txt", "notes.xcf", "stray.png"):
        assert name in told


def test_links_to_folders_are_followed_once(tmp_path: Path):
    photos(tmp_path / "elsewhere", "more", n=4)
    photos(tmp_path / "set", "cat", "dog")
    (tmp_path / "set" / "cat" / "more").symlink_to(tmp_path / "elsewhere" / "more")
    (tmp_path / "set" / "cat" / "loop").symlink_to(tmp_path / "set" / "cat")
    splits = load(tmp_path / "set")
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 24


def test_images_stand_as_the_camera_was_held(tmp_path: Path):
    upright = pixels(1, height=6, width=4)[0]
    for kind in ("cat", "dog"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        for index in range(10):
            exif = Image.Exif()
            exif[0x0112] = 6  # to be turned by a quarter, clockwise, to be seen
            Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "set" / kind / f"{index}.png", exif=exif)
    splits = load(tmp_path / "set")
    np.testing.assert_array_equal(splits.train.inputs[0].numpy(), upright.transpose(2, 0, 1))


def test_what_is_transparent_is_white(tmp_path: Path):
    image = np.zeros((4, 6, 4), np.uint8)
    image[:, :3, 3] = 255  # the left half is black, the right half is not there
    for kind in ("cat", "dog"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        for index in range(10):
            Image.fromarray(image, "RGBA").save(tmp_path / "set" / kind / f"{index}.png")
    x = load(tmp_path / "set").train.inputs[0]
    assert (x[..., :3] == 0).all()
    assert (x[..., 3:] == 255).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_mixed_gray_and_colour_become_what_is_asked(channels: int, tmp_path: Path):
    photos(tmp_path / "set", "cat")
    (tmp_path / "set" / "dog").mkdir()
    for index, image in enumerate(pixels(10, 1)):
        Image.fromarray(image).save(tmp_path / "set" / "dog" / f"{index}.png")
    assert load(tmp_path / "set", channels=channels).train.input_shape == (channels, 4, 6)
    with pytest.raises(InputError, match="channels is 2"):
        load(tmp_path / "set", channels=2)


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_corrupt_images_are_listed_at_once_or_left_out(kind: str, tmp_path: Path):
    if kind == "folder":
        path = photos(tmp_path / "set", "cat", "dog")
        for file in ("cat/3.png", "dog/7.png"):
            (path / file).write_bytes((path / file).read_bytes()[:50])
        names = ["cat/3.png", "dog/7.png"]
    else:
        columns = image_columns(pixels(20))
        for row in (3, 7):
            columns["image"][row] = {"bytes": b"no image", "path": None}
        path, names = write_parquet(tmp_path / "t.parquet", columns), ["row 3", "row 7"]
    with pytest.raises(DataError, match="2 images cannot be used") as caught:
        load(path)
    assert all(name in str(caught.value) for name in names)
    splits = load(path, skip_corrupt=True)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 18
    assert any("left out 2 image" in sentence for sentence in splits.told)
