"""Batches, augmentation, statistics: whole in memory and streamed from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gracile.core.errors import DataError, InputError
from gracile.core.seeding import generator
from gracile.data import Augmentation, Dataset, batches, load
from gracile.models import Normalize


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRACILE_CACHE", str(tmp_path / "cache"))


def _images(n: int, height: int = 4, width: int = 5) -> Dataset:
    inputs = torch.randint(0, 256, (n, 3, height, width), generator=generator(0, "images"), dtype=torch.uint8)
    return Dataset(inputs, torch.arange(n) % 3, ("a", "b", "c"), "made")


def _plain_twin(x: torch.Tensor, augmentation: Augmentation, stream: torch.Generator) -> torch.Tensor:
    """The same augmentation, one image and one pixel window at a time."""
    pad, (n, c, height, width) = augmentation.crop, x.shape
    out = x.clone()
    if pad:
        rows, columns = torch.randint(0, 2 * pad + 1, (2, n), generator=stream).tolist()
        for i in range(n):
            canvas = torch.zeros(c, height + 2 * pad, width + 2 * pad, dtype=torch.uint8)
            canvas[:, pad : pad + height, pad : pad + width] = x[i]
            out[i] = canvas[:, rows[i] : rows[i] + height, columns[i] : columns[i] + width]
    if augmentation.flip:
        for i, draw in enumerate(torch.rand(n, generator=stream).tolist()):
            if draw < 0.5:
                out[i] = torch.fliplr(out[i].permute(1, 2, 0)).permute(2, 0, 1)
    return out


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 6), st.integers(0, 7), st.booleans(), st.integers(0, 99))
def test_augmentation_equals_its_plain_twin(n: int, height: int, width: int, crop: int, flip: bool, seed: int) -> None:
    x, augmentation = _images(n, height, width).inputs, Augmentation(flip=flip, crop=crop)
    before = x.clone()
    assert torch.equal(augmentation(x, generator(seed, "a")), _plain_twin(x, augmentation, generator(seed, "a")))
    assert torch.equal(x, before)


def test_about_half_of_the_images_are_mirrored_and_every_offset_occurs() -> None:
    x = torch.arange(1, 6, dtype=torch.uint8).repeat(2000, 1, 1, 1)
    mirrored = Augmentation(flip=True, crop=0)(x, generator(0, "flip"))[:, 0, 0, 0] == 5
    assert 0.45 < mirrored.float().mean() < 0.55
    shifted = Augmentation(flip=False, crop=2)(x, generator(0, "crop"))
    assert len({tuple(row) for row in shifted[:, 0, 0].tolist()}) == 6  # five columns' offsets, and the rows of padding


def test_a_negative_crop_is_refused() -> None:
    with pytest.raises(InputError, match="crop is -1"):
        Augmentation(flip=False, crop=-1)


def test_features_cannot_be_cropped() -> None:
    with pytest.raises(InputError, match="Only images"):
        Augmentation(flip=False, crop=1)(torch.zeros(3, 4), generator(0))


def test_batches_follow_the_order_and_scale_to_one() -> None:
    data = _images(10)
    order = torch.randperm(10, generator=generator(0, "order"))
    found = list(batches(data, 4, order=order))
    assert [len(y) for _, y in found] == [4, 4, 2]
    assert torch.equal(torch.cat([x for x, _ in found]), data.inputs[order].float() / 255)
    assert torch.equal(torch.cat([y for _, y in found]), data.labels[order])
    assert found[0][0].dtype == torch.float32


def test_drop_last_leaves_the_rest_out() -> None:
    assert [len(y) for _, y in batches(_images(10), 4, drop_last=True)] == [4, 4]


def test_batches_are_memory_of_their_own() -> None:
    features = Dataset(torch.ones(4, 2), torch.zeros(4, dtype=torch.int64), ("a",), "made")
    for x, y in batches(features, 2):
        x.zero_()
        y.fill_(7)
    assert features.inputs.min() == 1
    assert features.labels.max() == 0


def test_an_empty_split_has_no_batches() -> None:
    assert list(batches(_images(3).subset([]), 2)) == []


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"batch_size": 2, "augment": Augmentation(flip=True, crop=0)}])
def test_wrong_options_are_refused_at_once(wrong: dict) -> None:
    with pytest.raises(InputError):
        batches(_images(3), **wrong)


def test_subset_takes_rows_or_a_mask() -> None:
    data = _images(6)
    assert torch.equal(data.subset([4, 1]).inputs, data.inputs[[4, 1]])
    assert torch.equal(data.subset(data.labels == 2).labels, torch.tensor([2, 2]))
    assert data.subset([0]).num_classes == 3


def test_statistics_equal_numpy_in_float64() -> None:
    data = _images(500, 9, 7)
    pixels = data.inputs.numpy().astype(np.float64) / 255
    mean, deviation = data.statistics()
    np.testing.assert_allclose(mean, pixels.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(deviation, pixels.std((0, 2, 3)), rtol=1e-6)


def test_statistics_of_a_feature_far_from_zero_keep_their_digits() -> None:
    values = 1e6 + torch.rand(5000, 1, generator=generator(0, "far"))
    data = Dataset(
        torch.cat([values, torch.full_like(values, 3.0)], 1), torch.zeros(5000, dtype=torch.int64), ("a",), "made"
    )
    mean, deviation = data.statistics()
    np.testing.assert_allclose(deviation[0], values.double().std(correction=0), rtol=1e-6)
    assert deviation[1] == 0
    assert mean[1] == 3


def test_a_constant_feature_is_none_to_learn_from_and_none_to_fail_by() -> None:
    """A table with a column that is the same everywhere was refused, with a remedy for who writes Python."""
    features = torch.cat([torch.rand(1000, 1), torch.full((1000, 1), 0.1)], 1)
    data = Dataset(features, torch.zeros(1000, dtype=torch.int64), ("a",), "made")
    mean, deviation = data.statistics()
    assert deviation[1] == 0
    assert torch.equal(Normalize(mean, deviation)(features)[:, 1], torch.zeros(1000))


@pytest.mark.parametrize(
    ("inputs", "labels"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 3), torch.zeros(2)),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64)),
    ],
    ids=["float images", "float labels", "other length"],
)
def test_a_data_set_checks_its_tensors(inputs: torch.Tensor, labels: torch.Tensor) -> None:
    with pytest.raises(DataError, match="'made'"):
        Dataset(inputs, labels, ("a",), "made")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "made.npz",
        x=rng.integers(0, 256, (120, 6, 5, 3), dtype=np.uint8),
        y=np.arange(120) % 4,
    )
    return tmp_path / "made.npz"


def test_streamed_batches_equal_those_in_memory_bit_for_bit(archive: Path) -> None:
    whole, streamed = load(archive, seed=3), load(archive, seed=3, max_bytes=0)
    assert not isinstance(streamed.train.inputs, torch.Tensor)
    order = torch.randperm(len(whole.train), generator=generator(0, "order"))
    augmentation = Augmentation(flip=True, crop=2)
    for one, other in (
        (whole.train, streamed.train),
        (whole.train.subset(order[:50]), streamed.train.subset(order[:50])),
    ):
        first = order[order < len(one)]
        pairs = zip(
            batches(one, 7, order=first, augment=augmentation, generator=generator(1, "augment")),
            batches(other, 7, order=first, augment=augmentation, generator=generator(1, "augment")),
            strict=True,
        )
        for (x, y), (streamed_x, streamed_y) in pairs:
            assert torch.equal(x, streamed_x)
            assert torch.equal(y, streamed_y)
    for a, b in zip(whole.test.statistics(), streamed.test.statistics(), strict=True):
        assert torch.equal(a, b)


def test_streamed_batches_may_be_abandoned(archive: Path) -> None:
    found = batches(load(archive, max_bytes=0).train, 2)
    x, _ = next(found)
    found.close()
    assert x.shape == (2, 3, 6, 5)


def test_streamed_inputs_index_like_a_tensor(archive: Path) -> None:
    whole, streamed = load(archive).train.inputs, load(archive, max_bytes=0).train.inputs
    assert streamed.shape == whole.shape
    assert (len(streamed), streamed.ndim, streamed.size(1), streamed.dtype) == (len(whole), 4, 3, torch.uint8)
    for index in (3, slice(5, 9), torch.tensor([8, 2]), torch.arange(len(whole)) % 2 == 0):
        assert torch.equal(streamed[index], whole[index])


def test_what_needs_all_of_a_streamed_set_says_so(archive: Path) -> None:
    with pytest.raises(DataError, match=r"'flatten' needs all inputs in memory.*max_bytes"):
        load(archive, max_bytes=0).train.inputs.flatten(1)


def test_writing_into_gathered_rows_leaves_the_file(archive: Path) -> None:
    train = load(archive, max_bytes=0, validation=0).train
    before = train.inputs[:].clone()
    train.inputs[:4].zero_()
    train.inputs[2].zero_()
    assert torch.equal(load(archive, max_bytes=0, validation=0).train.inputs[:], before)
    assert torch.equal(train.inputs[:], before)
