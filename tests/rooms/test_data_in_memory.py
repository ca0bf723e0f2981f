"""Data in memory as people hold them: arrays, tensors, frames, and PyTorch's data sets and loaders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import gracile
from gracile.core.errors import DataError, InputError
from gracile.data import Splits, describe, load, splits
from gracile.training import evaluate
from tests.peers import peer

LEVELS = np.random.default_rng(0).integers(0, 256, (60, 3, 8, 6), dtype=np.uint8)
LABELS = np.arange(60) % 3


class Pictures(Dataset):
    """As torchvision's data sets: pairs of what a transform gives and a class, and the classes' names."""

    classes = ("cat", "dog", "eel")

    def __init__(self, transform) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 60

    def __getitem__(self, row: int):
        return self.transform(LEVELS[row].transpose(1, 2, 0)), int(LABELS[row])


def picture(levels: np.ndarray):
    from PIL import Image

    return Image.fromarray(levels)


def to_tensor(levels: np.ndarray) -> torch.Tensor:
    """What torchvision's ToTensor does."""
    return torch.from_numpy(levels.transpose(2, 0, 1).copy()).float() / 255


def whole(found: Splits) -> torch.Tensor:
    """The images of all splits, in the order of their labels and values, which does not depend on the draw."""
    images = torch.cat([found.train.inputs, found.validation.inputs, found.test.inputs])
    return images[np.lexsort(images.flatten(1).T.numpy())]


FLOATS = torch.from_numpy(LEVELS).float() / 255


@pytest.mark.parametrize(
    "data",
    [
        (LEVELS, LABELS),
        (LEVELS.transpose(0, 2, 3, 1), LABELS[:, None]),
        (FLOATS, torch.from_numpy(LABELS)),
        (FLOATS.double().numpy()[:, :, ::-1][:, :, ::-1], np.eye(3)[LABELS]),
        TensorDataset(FLOATS, torch.from_numpy(LABELS)),
        Pictures(to_tensor),
        Pictures(picture),
        Subset(Pictures(to_tensor), range(60)),
        DataLoader(Pictures(to_tensor), batch_size=7, shuffle=True),
        [(FLOATS[row], int(LABELS[row])) for row in range(60)],
    ],
    ids=[
        "levels",
        "channels last",
        "tensors",
        "one-hot",
        "TensorDataset",
        "ToTensor",
        "PIL",
        "Subset",
        "loader",
        "list",
    ],
)
def test_however_images_are_held_the_levels_are_the_same(data):
    found = splits(data, validation=0.2)
    expected = splits((LEVELS, LABELS), validation=0.2)
    assert torch.equal(whole(found), whole(expected))
    for one, other in zip((found.train, found.test), (expected.train, expected.test), strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.labels, other.labels)


def test_classes_are_those_that_the_data_set_declares():
    assert splits(Pictures(to_tensor)).train.classes == Pictures.classes
    assert splits((LEVELS, np.array(Pictures.classes)[LABELS])).train.classes == Pictures.classes
    assert splits((LEVELS, LABELS), classes=["a", "b", "c"]).train.classes == ("a", "b", "c")


def test_splits_that_are_given_are_taken_and_others_drawn():
    found = splits((LEVELS[:40], LABELS[:40]), (LEVELS[40:], LABELS[40:]), validation=(LEVELS[:9], LABELS[:9]))
    assert [len(found.train), len(found.validation), len(found.test)] == [40, 9, 20]
    assert torch.equal(found.test.inputs, torch.from_numpy(LEVELS[40:]))
    drawn = splits((LEVELS, LABELS), validation=6)
    assert [len(drawn.train), len(drawn.validation), len(drawn.test)] == [42, 6, 12]
    assert "held out" in drawn.train.note
    assert splits((LEVELS, LABELS), image_size=4).train.input_shape == (3, 4, 4)


def test_features_stand_as_they_are():
    pandas = peer("pandas")
    x = np.random.default_rng(1).normal(size=(60, 4)).astype(np.float32)
    for given in (x, x.astype(np.float64), pandas.DataFrame(x, columns=list("abcd")), torch.from_numpy(x).bfloat16()):
        found = splits((given, LABELS), (x, LABELS), validation=0)
        assert torch.allclose(found.train.inputs, torch.from_numpy(x), atol=0.02)
        assert torch.equal(found.test.inputs, torch.from_numpy(x))


def test_what_was_gathered_trains_and_describes_itself():
    data = splits((FLOATS, LABELS))
    model = gracile.models.cnn(in_channels=3, image_size=(8, 6), num_classes=3)
    assert gracile.fit(model, data, epochs=1, batch_size=16).rows
    assert describe(data).sizes == {"train": 43, "validation": 5, "test": 12}


class Endless(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (FLOATS, "a Tensor"),
        ((FLOATS, LABELS, LABELS), "a tuple"),
        (Endless(), "IterableDataset"),
        ([{"image": FLOATS[0], "label": 0}], "Sample 0 of the train data is a dict"),
        ([(FLOATS[0], 0), (FLOATS[0, :, :4], 1)], "different shapes"),
        ([], "no rows"),
        ((FLOATS, LABELS[:50]), "labels of shape"),
        ((2 * FLOATS - 1, LABELS), "gracile.models.Normalize"),
        ((FLOATS[:, None], LABELS), "are float32 of shape"),
        ((np.full((60, 2), np.nan), LABELS), "nan"),
    ],
)  # fmt: skip
def test_what_is_no_data_is_refused_with_a_remedy(data, told):
    with pytest.raises((InputError, DataError), match=told):
        splits(data)


def test_functions_that_take_splits_say_how_to_make_them():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 6, 3))
    pair, found = (FLOATS, LABELS), splits((FLOATS, LABELS))
    calls = [
        lambda: gracile.fit(model, pair, epochs=1),  # type: ignore[arg-type]
        lambda: gracile.attack(model, pair),  # type: ignore[arg-type]
        lambda: gracile.compress(model, FLOATS[:2], pair),  # type: ignore[arg-type]
        lambda: describe(pair),  # type: ignore[arg-type]
        lambda: evaluate(model, pair),  # type: ignore[arg-type]
        lambda: load(pair),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(InputError, match=r"gracile\.data\.splits\(\(x, y\)\)"):
            call()
    with pytest.raises(InputError, match=r"its \.test"):
        evaluate(model, found)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no samples"):
        evaluate(model, splits((FLOATS, LABELS), validation=0).validation)
