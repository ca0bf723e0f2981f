"""Sources: what a path or name turns into."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from gracile.core.errors import DataError
from gracile.data import load
from gracile.data.table import SOURCES


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRACILE_CACHE", str(tmp_path / "cache"))


def pixels(n: int, channels: int = 3, seed: int = 0, height: int = 4, width: int = 6) -> np.ndarray:
    """(n, h, w, c) uint8, or (n, h, w) for one channel."""
    values = np.random.default_rng(seed).integers(0, 256, (n, height, width, channels), dtype=np.uint8)
    return values[..., 0] if channels == 1 else values


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def write_parquet(
    path: Path, columns: dict[str, Any], features: dict[str, Any] | None = None, group: int | None = None
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=group)
    return path


CLASSES = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}


def image_columns(images: np.ndarray, kind: str = "PNG") -> dict[str, Any]:
    return {
        "image": [{"bytes": encoded(image, kind), "path": None} for image in images],
        "label": [index % 2 for index in range(len(images))],
    }


def test_every_source_has_a_module_that_opens() -> None:

    assert len(SOURCES) >= 7
    for row in SOURCES.values():
        assert callable(row.opens)
        assert row.summary


def test_digits_are_scaled_and_complete() -> None:
    splits = load("digits", validation=0.1)
    assert splits.train.inputs.dtype == torch.uint8
    assert splits.train.input_shape == (1, 8, 8)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 1797
    assert int(splits.train.inputs.max()) == 255
    assert splits.train.classes == tuple("0123456789")
    assert "held out" in splits.test.note


def test_parquet_images_come_out_pixel_for_pixel(tmp_path: Path) -> None:
    train, test = pixels(10), pixels(6, seed=1)
    write_parquet(tmp_path / "set" / "data" / "train-00000-of-00001.parquet", image_columns(train), CLASSES, group=3)
    write_parquet(tmp_path / "set" / "data" / "test-00000-of-00001.parquet", image_columns(test), CLASSES)
    splits = load(tmp_path / "set", validation=0)
    assert splits.train.classes == ("cat", "dog")
    np.testing.assert_array_equal(splits.train.inputs.numpy(), train.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(splits.test.inputs.numpy(), test.transpose(0, 3, 1, 2))
    assert splits.test.labels.tolist() == [0, 1] * 3
    assert (splits.train.note, len(splits.validation), splits.train.name) == ("", 0, "set")


def test_raw_bytes_and_split_folders_are_understood(tmp_path: Path) -> None:
    images = pixels(8, 1)
    for split in ("train", "test", "validation"):
        columns = {"img": [encoded(image) for image in images], "target": [0, 1] * 4}
        write_parquet(tmp_path / "set" / split / "0000.parquet", columns)
    splits = load(tmp_path / "set")
    np.testing.assert_array_equal(splits.validation.inputs.numpy()[:, 0], images)
    assert len(splits.train) == 8
    assert "its own validation split" in splits.train.note


def test_jpeg_is_told_from_the_bytes(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", image_columns(pixels(20, height=16, width=16), "JPEG"), CLASSES)
    assert "images are JPEG-compressed" in load(file).train.note


def test_one_colour_image_makes_the_set_colour(tmp_path: Path) -> None:
    gray, colour = pixels(20, 1), pixels(20)
    columns = image_columns(colour)
    columns["image"][:19] = image_columns(gray)["image"][:19]
    splits = load(write_parquet(tmp_path / "a.parquet", columns, CLASSES), validation=0)
    assert splits.train.input_shape == (3, 4, 6)


def test_image_size_scales_without_stretching(tmp_path: Path) -> None:
    images = np.zeros((20, 8, 16, 3), dtype=np.uint8)
    images[:, :, 4:12] = 255  # the centred square, which is what must be left
    columns = image_columns(images)
    columns["image"][3] = {"bytes": encoded(np.full((32, 32, 3), 255, dtype=np.uint8)), "path": None}
    splits = load(write_parquet(tmp_path / "a.parquet", columns, CLASSES), image_size=4)
    assert splits.train.input_shape == (3, 4, 4)
    assert (splits.train.inputs[:, :, :, 1:3] == 255).all()
    assert load(tmp_path / "a.parquet", image_size=(2, 4)).train.input_shape == (3, 2, 4)


def test_tabular_parquet_becomes_float_features(tmp_path: Path) -> None:
    columns = {"a": list(range(20)), "class": ["x", "y"] * 10, "b": [0.5] * 20}
    splits = load(write_parquet(tmp_path / "t.parquet", columns), validation=0)
    assert splits.train.inputs.dtype == torch.float32
    assert splits.train.classes == ("x", "y")
    rows = sorted([*splits.train.inputs.tolist(), *splits.test.inputs.tolist()])
    assert rows == [[float(index), 0.5] for index in range(20)]
    together = torch.cat(
        [splits.train.inputs[:, 0] % 2 - splits.train.labels, splits.test.inputs[:, 0] % 2 - splits.test.labels]
    )
    assert not together.any()


def test_the_label_column_can_be_chosen(tmp_path: Path) -> None:
    columns = {"a": [1.0, 2.0] * 10, "coarse": [0, 1] * 10, "label": [0, 1, 2, 3] * 5}
    file = write_parquet(tmp_path / "t.parquet", columns)
    assert load(file).train.num_classes == 4
    assert load(file, label="coarse").train.num_classes == 2


def _image_folder(root: Path, counts: dict[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    written = {}
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        written[name] = pixels(count, seed=10 * seed + number)
        for index, image in enumerate(written[name]):
            Image.fromarray(image).save(root / name / f"{index:03}.png")
    return written


def test_a_folder_of_images_by_class(tmp_path: Path) -> None:
    written = _image_folder(tmp_path / "pets", {"dog": 10, "cat": 5})
    splits = load(tmp_path / "pets", validation=0)
    assert splits.train.classes == ("cat", "dog")
    found = {
        tuple(image.flatten().tolist()): int(label)
        for part in (splits.train, splits.test)
        for image, label in zip(part.inputs, part.labels, strict=True)
    }
    for number, name in enumerate(("cat", "dog")):
        for image in written[name]:
            assert found[tuple(image.transpose(2, 0, 1).flatten().tolist())] == number
    assert "held out" in splits.train.note


def test_a_folder_with_splits_keeps_them(tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "test", "val")):
        _image_folder(tmp_path / "pets" / split, {"dog": 3, "cat": 3}, seed)
    splits = load(tmp_path / "pets")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [6, 6, 6]
    assert not torch.equal(splits.train.inputs, splits.validation.inputs)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_with_header(tmp_path: Path, delimiter: str) -> None:
    lines = ["a,Class,b", *[f"{index},{'xy'[index % 2]},{index / 2}" for index in range(20)]]
    (tmp_path / "t.csv").write_text("\n".join(lines).replace(",", delimiter) + "\n")
    splits = load(tmp_path / "t.csv", validation=0)
    assert splits.train.classes == ("x", "y")
    assert torch.equal(splits.train.inputs[:, 0], splits.train.inputs[:, 1] * 2)
    assert torch.equal(splits.train.inputs[:, 0].long() % 2, splits.train.labels)


def test_csv_without_header_takes_the_last_column(tmp_path: Path) -> None:
    (tmp_path / "iris.csv").write_text("".join(f"{i}.5,2,Iris-{'ab'[i % 2]}\n" for i in range(20)))
    splits = load(tmp_path / "iris.csv", validation=0)
    assert splits.train.classes == ("Iris-a", "Iris-b")
    assert len(splits.train) + len(splits.test) == 20


def test_csv_label_by_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("kind,a\n" + "".join(f"{i % 3},{i}\n" for i in range(30)))
    assert load(tmp_path / "t.csv", label="kind").train.num_classes == 3


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((12, 4, 6), (1, 4, 6)), ((12, 4, 6, 3), (3, 4, 6)), ((12, 3, 4, 6), (3, 4, 6)), ((12, 5), (5,))],
)
def test_npz_layouts(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.savez_compressed(
        tmp_path / "a.npz", x_train=x, y_train=np.arange(12)[:, None] % 2, x_test=x, y_test=np.arange(12) % 2
    )
    splits = load(tmp_path / "a.npz", validation=0)
    assert splits.test.input_shape == expected
    plain = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2) if shape[-1] == 3 else x
    np.testing.assert_array_equal(splits.test.inputs.numpy(), plain)
    assert splits.train.labels.tolist() == [0, 1] * 6


def test_npz_in_column_order_and_with_class_names(tmp_path: Path) -> None:
    x = np.asfortranarray(np.arange(60, dtype=np.float64).reshape(20, 3))
    np.savez(tmp_path / "a.npz", X=x, y=np.arange(20) % 2, classes=np.array(["no", "yes"]))
    splits = load(tmp_path / "a.npz", validation=0)
    assert splits.train.classes == ("no", "yes")
    assert sorted(torch.cat([splits.train.inputs, splits.test.inputs])[:, 0].tolist()) == x[:, 0].tolist()


def test_a_name_under_the_root_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "root" / "fashion_mnist" / "train.parquet", image_columns(pixels(20, 1)), CLASSES)
    write_parquet(tmp_path / "root" / "mine" / "train.parquet", image_columns(pixels(20, 1)), CLASSES)
    assert load("fashion-mnist", root=tmp_path / "root").train.name == "fashion-mnist"
    monkeypatch.setenv("GRACILE_DATA", str(tmp_path / "root"))
    assert load("mine").train.name == "mine"


def _hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    asked: list[str] = []

    def snapshot_download(repository: str, **options: Any) -> str:
        assert options["repo_type"] == "dataset"
        assert options["allow_patterns"] == "*.parquet"
        asked.append(repository)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


def test_the_hub_is_asked_by_owner_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "hub" / "data" / "train-0.parquet", image_columns(pixels(20)), CLASSES)
    asked = _hub(monkeypatch, tmp_path / "hub")
    assert load("somebody/pets").train.name == "pets"
    assert asked == ["somebody/pets"]


def test_a_named_set_that_is_not_under_the_root_comes_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {**image_columns(pixels(20)), "fine_label": [index % 4 for index in range(20)]}
    columns["coarse_label"] = columns.pop("label")
    write_parquet(tmp_path / "hub" / "cifar100" / "train-0.parquet", columns)
    asked = _hub(monkeypatch, tmp_path / "hub")
    monkeypatch.delenv("GRACILE_DATA", raising=False)
    splits = load("cifar100")
    assert asked == ["uoft-cs/cifar100"]
    assert (splits.train.num_classes, splits.train.name) == (4, "cifar100")


def test_a_configuration_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, count in (("small", 20), ("large", 30)):
        write_parquet(tmp_path / "hub" / kind / "train" / "0000.parquet", image_columns(pixels(count)), CLASSES)
    _hub(monkeypatch, tmp_path / "hub")
    splits = load("somebody/pets/large", validation=0)
    assert len(splits.train) + len(splits.test) == 30
    with pytest.raises(DataError, match="several configurations: large, small"):
        load("somebody/pets")


@pytest.mark.data
def test_mnist_as_shipped(data_root: Path) -> None:
    splits = load("mnist", root=data_root, train_limit=2000, test_limit=500, validation=0.1)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (2000, 222, 500)
    assert splits.train.input_shape == (1, 28, 28)
    assert torch.equal(splits.train.inputs.amax((1, 2, 3)) > 200, torch.ones(2000, dtype=torch.bool))


@pytest.mark.data
def test_cifar10_is_a_jpeg_copy_and_says_so(data_root: Path) -> None:
    splits = load("cifar10", root=data_root, train_limit=500, test_limit=100)
    assert "images are JPEG-compressed" in splits.test.note
    assert splits.train.classes[0] == "airplane"
    assert torch.bincount(splits.train.labels).tolist() == [50] * 10


@pytest.mark.data
def test_letter_has_its_customary_split(data_root: Path) -> None:
    splits = load("letter", root=data_root, validation=0.1)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (14_400, 1_600, 4_000)
    whole = pq.read_table(data_root / "letter")
    assert splits.test.labels.tolist() == whole["label"].to_pylist()[16_000:]
    assert splits.test.inputs[:, 0].tolist() == whole["x-box"].to_pylist()[16_000:]
