"""Batches and augmentation."""

from __future__ import annotations

import torch

from gracile.core.seeding import generator
from gracile.data import Dataset, batches


def _images(n: int) -> Dataset:
    inputs = torch.randint(0, 256, (n, 3, 4, 5), generator=generator(0, "images"), dtype=torch.uint8)
    return Dataset(inputs, torch.arange(n) % 3, ("a", "b", "c"), "made")


def test_batches_follow_the_order_and_scale_to_one() -> None:
    data = _images(10)
    order = torch.randperm(10, generator=generator(0, "order"))
    x = torch.cat([x for x, _ in batches(data, 4, order=order)])
    assert torch.equal(x, data.inputs[order].float() / 255)
