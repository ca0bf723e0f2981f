"""What a data set was read as: shapes, splits, and how many samples each class has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gracile.data.dataset import Splits, check_data

SPLITS = ("train", "validation", "test")
# Classes beyond which a table of them says less than their range.
MANY = 40


@dataclass(frozen=True)
class Description:
    """What a data set was read as.

    Attributes:
        name: of the data set.
        kind: ``images`` or ``features``.
        input_shape: of one sample: (c, h, w) or (features,).
        sizes: samples, by split.
        classes: samples of each class, by class and split.
        told: what was read as what, and what was left out, a sentence each.
        note: what a reader of results must know.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...]
    sizes: Mapping[str, int]
    classes: Mapping[str, Mapping[str, int]]
    told: tuple[str, ...]
    note: str

    def __str__(self) -> str:
        from tabulate import tabulate

        head = f"{self.name}: {shape_in_words(self.kind, self.input_shape)}, {len(self.classes)} classes"
        rows = [["all", *self.sizes.values()]]
        if len(self.classes) <= MANY:
            rows = [[name, *counts.values()] for name, counts in self.classes.items()] + rows
        else:
            each = [[counts[split] for counts in self.classes.values()] for split in self.sizes]
            rows = [["fewest of a class", *map(min, each)], ["most of a class", *map(max, each)], *rows]
        table = tabulate(rows, headers=["class", *self.sizes], tablefmt="github", intfmt=",", disable_numparse=[0])
        said = [*self.told, *([self.note] if self.note else [])]
        return "\n\n".join([head, table, *(["\n".join(f"- {one}" for one in said)] if said else [])])

    def to_json(self) -> dict[str, Any]:
        """The same for a file."""
        return {
            "name": self.name,
            "kind": self.kind,
            "input_shape": list(self.input_shape),
            "splits": dict(self.sizes),
            "classes": {name: dict(counts) for name, counts in self.classes.items()},
            "told": list(self.told),
            "note": self.note,
        }


def shape_in_words(kind: str, input_shape: Sequence[int]) -> str:
    """Such as "colour images, 32 x 32"."""
    if kind != "images" or len(input_shape) != 3:
        return f"rows of {math.prod(input_shape):,} features"
    channels, height, width = input_shape
    colour = {1: "gray", 3: "colour"}.get(channels, f"{channels}-channel")
    return f"{colour} images, {height} x {width}"


def describe(splits: Splits) -> Description:
    """Say what a data set was read as, before anything is trained on it.

    Args:
        splits: of `gracile.data.load` or `gracile.data.splits`.

    Raises:
        InputError: no `Splits`.
    """
    check_data(splits)
    parts = {name: getattr(splits, name) for name in SPLITS}
    train = splits.train
    counts = {name: torch.bincount(part.labels, minlength=train.num_classes).tolist() for name, part in parts.items()}
    return Description(
        name=train.name,
        kind="images" if train.is_image else "features",
        input_shape=train.input_shape,
        sizes={name: len(part) for name, part in parts.items()},
        classes={
            label: {name: each[index] for name, each in counts.items()} for index, label in enumerate(train.classes)
        },
        told=splits.told,
        note=train.note or splits.test.note,
    )
