"""Splits drawn by class and seed; decoded data kept in the cache."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gracile.core.errors import InputError
from gracile.data import images, load
from gracile.data.cache import WORTH_KEEPING
from gracile.data.stratify import draw
from tests.rooms.test_data_sources import CLASSES, image_columns, pixels, write_parquet


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRACILE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Row i has the feature i, so that rows can be told apart; classes of 60, 30 and 10 percent."""
    labels = np.repeat([0, 1, 2], [120, 60, 20])[np.random.default_rng(0).permutation(200)]
    np.savez(
        tmp_path / "t.npz",
        x_train=np.arange(200)[:, None],
        y_train=labels,
        x_test=1000 + np.arange(50)[:, None],
        y_test=np.arange(50) % 3,
    )
    return tmp_path / "t.npz"


def rows(data) -> list[int]:
    return data.inputs[:, 0].long().tolist()


def counts(data) -> list[int]:
    return torch.bincount(data.labels, minlength=3).tolist()


def test_validation_is_a_stratified_part_of_training_and_never_of_test(table: Path) -> None:
    splits = load(table, validation=0.2)
    assert counts(splits.validation) == [24, 12, 4]
    assert counts(splits.train) == [96, 48, 16]
    assert sorted(rows(splits.train) + rows(splits.validation)) == list(range(200))
    assert rows(splits.test) == list(range(1000, 1050))


def test_validation_may_be_a_count_or_nothing(table: Path) -> None:
    assert counts(load(table, validation=10).validation) == [6, 3, 1]
    assert len(load(table, validation=0).validation) == 0
    assert rows(load(table, validation=0).train) == list(range(200))


def test_the_seed_and_nothing_else_decides_what_is_drawn(table: Path) -> None:
    torch.manual_seed(1)
    first = rows(load(table, seed=1).validation)
    torch.manual_seed(2)
    assert rows(load(table, seed=1).validation) == first
    assert rows(load(table, seed=2).validation) != first


def test_limits_keep_the_classes_shares(table: Path) -> None:
    splits = load(table, train_limit=40, test_limit=9, validation=0.2)
    assert counts(splits.train) == [24, 12, 4]
    assert counts(splits.validation) == [6, 3, 1]
    assert counts(splits.test) == [3, 3, 3]
    whole = load(table, validation=0.2)
    assert set(rows(splits.train)) <= set(rows(whole.train))
    assert set(rows(splits.validation)) <= set(rows(whole.validation))


def test_a_fifth_is_held_out_where_there_is_no_test_split(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", x=np.arange(100)[:, None], y=np.arange(100) % 2)
    splits = load(tmp_path / "t.npz", validation=0)
    assert torch.bincount(splits.test.labels).tolist() == [10, 10]
    assert sorted(rows(splits.train) + rows(splits.test)) == list(range(100))
    assert "held out" in splits.train.note


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=8), st.floats(0.01, 0.99), st.integers(0, 9), st.booleans())
def test_a_draw_keeps_shares_and_leaves_what_it_must(sizes: list[int], share: float, seed: int, rest: bool) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    room = sum(sizes) - len(sizes) * rest
    count = min(max(round(share * len(labels)), len(sizes)), room)
    names = tuple("abcdefgh")
    taken = draw(labels, count, seed, "test", what="the draw", classes=names, rest=rest)
    assert len(np.unique(taken)) == count
    per_class = np.bincount(labels[taken], minlength=len(sizes))
    assert (per_class >= 1).all()
    assert (per_class <= np.array(sizes) - rest).all()
    ideal = count * np.array(sizes) / sum(sizes)
    # Where no class hits its bounds, none is a whole sample away from its share.
    if (np.floor(ideal) >= 1).all() and (np.ceil(ideal) <= np.array(sizes) - rest).all():
        assert (np.abs(per_class - ideal) < 1).all()


def _many_images(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "many.parquet", image_columns(pixels(WORTH_KEEPING, 1, height=3, width=3)), CLASSES)


def test_a_second_load_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _many_images(tmp_path)
    first = load(file)
    monkeypatch.setattr(images, "decode", lambda *_: pytest.fail("decoded again"))
    assert torch.equal(load(file).train.inputs, first.train.inputs)
    assert torch.equal(load(file, seed=1, max_bytes=0).train.inputs[:].amax(), first.train.inputs.amax())


def test_a_changed_file_is_decoded_anew(tmp_path: Path) -> None:
    file = _many_images(tmp_path)
    first = load(file, validation=0).train.inputs
    write_parquet(file, image_columns(pixels(WORTH_KEEPING, 1, seed=1, height=3, width=3)), CLASSES)
    os.utime(file, (1, 1))
    assert not torch.equal(load(file, validation=0).train.inputs, first)


def test_other_options_have_a_cache_of_their_own(tmp_path: Path) -> None:
    file = _many_images(tmp_path)
    assert load(file).train.input_shape == (1, 3, 3)
    assert load(file, image_size=2).train.input_shape == (1, 2, 2)
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 2


def test_a_damaged_cache_file_is_replaced(tmp_path: Path) -> None:
    file = _many_images(tmp_path)
    first = load(file).train.inputs
    (kept,) = (tmp_path / "cache").rglob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:1000])
    assert torch.equal(load(file).train.inputs, first)


def test_the_cache_is_plain_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    load(_many_images(tmp_path), validation=0)
    (kept,) = (tmp_path / "cache").rglob("*.safetensors")
    expected = pixels(WORTH_KEEPING, 1, height=3, width=3)
    np.testing.assert_array_equal(load_file(kept)["inputs"].numpy()[:, 0], expected)


def test_without_a_writable_cache_small_data_still_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _many_images(tmp_path)
    expected = load(file).train.inputs
    (tmp_path / "in-the-way").write_text("")
    monkeypatch.setenv("GRACILE_CACHE", str(tmp_path / "in-the-way"))
    assert torch.equal(load(file).train.inputs, expected)


@pytest.mark.parametrize("limit", [None, 30])
def test_streamed_splits_are_those_in_memory(table: Path, limit: int | None) -> None:
    whole, streamed = load(table, train_limit=limit), load(table, train_limit=limit, max_bytes=0)
    for name in ("train", "validation", "test"):
        assert torch.equal(getattr(whole, name).inputs, getattr(streamed, name).inputs[:])
        assert torch.equal(getattr(whole, name).labels, getattr(streamed, name).labels)


def test_only_chosen_images_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, seen = _many_images(tmp_path), []
    plain = images.decode_one
    monkeypatch.setattr(images, "decode_one", lambda image, layout: seen.append(image) or plain(image, layout))
    splits = load(file, train_limit=20, test_limit=10)
    assert len(seen) == len(splits.train) + len(splits.validation) + len(splits.test) == 32
    load(file)
    seen.clear()
    again = load(file, train_limit=20, test_limit=10)
    assert seen == []  # the whole is in the cache by now
    assert torch.equal(again.train.inputs, splits.train.inputs)


def test_a_class_without_samples_is_told(tmp_path: Path) -> None:
    x, labels = np.arange(100)[:, None], np.arange(100) % 2
    np.savez(tmp_path / "t.npz", x=x, y=labels, classes=np.array(["a", "b", "c"]))
    splits = load(tmp_path / "t.npz")
    assert splits.train.num_classes == 3
    assert "no training samples of 1 of 3 classes, such as 'c'" in splits.train.note


def test_plain_arrays_are_brought_to_an_image_size_too():
    assert load("digits", image_size=(16, 12)).train.input_shape == (1, 16, 12)
    found = load("digits", image_size=16)
    assert found.train.input_shape == (1, 16, 16)
    means = [splits.train.inputs.float().mean().item() for splits in (found, load("digits"))]
    assert means[0] == pytest.approx(means[1], rel=0.05)


def test_an_image_size_for_features_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,label\n" + "\n".join(f"{i},{i % 3},{i % 2}" for i in range(40)))
    with pytest.raises(InputError, match="rows of 2 features"):
        load(tmp_path / "t.csv", image_size=8)
