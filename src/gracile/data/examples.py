"""What a data set was read as, as pages show it: classes, counts and a few examples."""

from __future__ import annotations

import base64
import io
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from gracile.data.dataset import Dataset, Splits
from gracile.data.description import describe

# Classes with examples, examples of each, and their longest side in pixels: a few kilobytes in all.
CLASSES, EACH, SIDE = 10, 8, 48
# Of a table, rows and features.
ROWS, FEATURES = 6, 12


def described(splits: Splits) -> dict[str, Any]:
    """`gracile.data.describe` as plain values, with ``examples``: the first training images of each class as one PNG, or rows."""
    train = splits.train
    return describe(splits).to_json() | {"examples": _examples(train) if train.is_image else _rows(train)}


def _rows(data: Dataset) -> list[dict[str, Any]]:
    """The first rows of a table: the class, and what features there is room for."""
    first = data.subset(list(range(min(ROWS, len(data)))))
    shown = zip(first.labels.tolist(), first.inputs[:, :FEATURES].tolist(), strict=True)
    return [
        {"class": data.classes[label], **{f"feature {place}": value for place, value in enumerate(values)}}
        for label, values in shown
    ]


def _examples(data: Dataset) -> dict[str, Any]:
    """A row of images per class, in base64."""
    rows, classes = [], []
    for index, name in enumerate(data.classes):
        places = (data.labels == index).nonzero().flatten()[:EACH]
        if len(places) and len(classes) < CLASSES:
            classes.append(name)
            rows.append([_small(image) for image in data.subset(places).inputs])
    width, height = rows[0][0].size
    sheet = Image.new("RGB", (EACH * (width + 1) - 1, len(rows) * (height + 1) - 1), (128, 128, 128))
    for down, row in enumerate(rows):
        for across, image in enumerate(row):
            sheet.paste(image, (across * (width + 1), down * (height + 1)))
    written = io.BytesIO()
    sheet.save(written, format="png", optimize=True)
    return {"classes": classes, "each": EACH, "side": height, "png": base64.b64encode(written.getvalue()).decode()}


def _small(image: Tensor) -> Image.Image:
    """A uint8 image (c, h, w) as colour; of other than 1, 3 or 4 channels the first."""
    pixels = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    made = Image.fromarray(pixels.permute(1, 2, 0).to("cpu", torch.uint8).contiguous().numpy())
    made.thumbnail((SIDE, SIDE))
    return made
