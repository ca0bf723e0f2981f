"""What every test shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Tests run side by side on few cores: threads and processes of theirs that wait for a processor keep others from it.
# Before the libraries that read it are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import torch
from torch import nn

from gracile.data import Dataset, Splits
from gracile.export import latency_table

torch.set_num_threads(1)
# Beside other tests a time tells nothing: a run of each file does.
latency_table.__kwdefaults__["turn"] = 1e-4


@pytest.fixture
def data_root() -> Path:
    """The folder of real data sets; a test that needs it is skipped where there is none."""
    root = os.environ.get("GRACILE_DATA")
    if not root:
        pytest.skip("needs real data: set GRACILE_DATA to a folder with mnist, cifar10 and letter")
    return Path(root)


@pytest.fixture
def array_api(monkeypatch: pytest.MonkeyPatch) -> None:
    """scikit-learn checks arrays of other libraries only where SciPy's switch says so."""
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")


@pytest.fixture
def blobs() -> Splits:
    """Three easy classes of 8x8 images: 192 to train, 48 to validate, 60 to test."""
    return make_blobs()


def make_blobs(seed: int = 0) -> Splits:
    """Images whose bright quadrant tells the class, under noise."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(300) % 3
    images = torch.randint(0, 120, (300, 1, 8, 8), generator=random)
    corners = torch.tensor([[0, 0], [0, 4], [4, 0]])
    for image, label in zip(images, labels, strict=True):
        top, left = corners[label]
        image[0, top : top + 4, left : left + 4] += 100
    images = images.to(torch.uint8)
    parts = [slice(0, 192), slice(192, 240), slice(240, 300)]
    train, validation, test = (Dataset(images[part], labels[part], ("a", "b", "c"), "blobs") for part in parts)
    return Splits(train, validation, test)


def small_network(channels: int, nodes: int) -> nn.Sequential:
    """For the blobs: two convolutions with a batch-norm between them, and two layers of nodes; always the same weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(16 * channels, nodes), nn.ReLU(), nn.Linear(nodes, 3),
    )  # fmt: skip
