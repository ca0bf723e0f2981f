"""An epoch of training, beside the loop that one would write with PyTorch, a DataLoader and torchvision-like augmentation.

Both take the same network, optimiser and batch, and mirror and crop the same images; the loop decodes nothing and holds its images in
memory as uint8, as its user would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from benchmarks.protocol import Case
from gracile.data import Augmentation, Dataset, Splits
from gracile.models import resnet18, resnet20, vgg16
from gracile.training import fit

# At least twice as fast.
GOAL = 0.5


class Augmented(TorchDataset[tuple[Tensor, int]]):
    """What torchvision's RandomCrop(32, padding=4), RandomHorizontalFlip and ToTensor do, sample by sample."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        padded = nn.functional.pad(self.images[index], (4, 4, 4, 4))
        top, left = torch.randint(9, (2,)).tolist()
        image = padded[:, top : top + 32, left : left + 32]
        if torch.rand(()) < 0.5:
            image = image.flip(-1)
        return image.float() / 255, int(self.labels[index])


def plain(network: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(Augmented(images, labels), batch_size=128, shuffle=True)

    def epoch() -> None:
        network.train()
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()

    return epoch


def cases(small: bool) -> Iterator[Case]:
    random = torch.Generator().manual_seed(0)
    number = 32 if small else 10 * 128
    images = torch.randint(256, (number, 3, 32, 32), generator=random, dtype=torch.uint8)
    labels = torch.arange(number) % 10
    train = Dataset(images, labels, tuple("0123456789"), "noise")
    splits = Splits(train, train.subset([]), train.subset([]))
    for name, make in {
        "ResNet-20": resnet20,
        "VGG-16 of half the width": lambda: vgg16(width=0.5),
        "ResNet-18 of width 32": lambda: resnet18(width=32),
    }.items():
        ways: dict[str, dict[str, Any]] = {
            "auto": {"precision": "auto"},
            "float32": {"precision": "float32"},
            "bf16": {"precision": "bf16"},
            "auto, compiled": {"precision": "auto", "compile": True},
        }
        calls: dict[str, Callable[[], object]] = {"a plain PyTorch loop": plain(make(), images, labels)}
        for way, settings in ways.items():
            network = make()
            calls[f"gracile.fit, {way}"] = lambda settings=settings, network=network: fit(
                network, splits, epochs=1, augment=Augmentation(flip=True, crop=4), **settings
            )
        yield Case(
            f"{name}, {number} images of 32x32, an epoch", "a plain PyTorch loop", calls, goals={"gracile.fit, auto": GOAL},
            rounds=3,
        )  # fmt: skip
        if small:
            return
