"""What a run was given to learn from, as its page shows it: classes, counts and a few examples."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from gracile.core.files import write_json
from gracile.data import Dataset, Splits, describe

DATA = "data.json"
# Classes with examples, examples of each, and their longest side in pixels: a few kilobytes in all.
CLASSES, EACH, SIDE = 10, 8, 48


def write_data(folder: Path, splits: Splits) -> None:
    """Write ``data.json`` into a run's folder, where it is not there yet."""
    if not (folder / DATA).exists():
        write_json(folder / DATA, described(splits))


def described(splits: Splits) -> dict[str, Any]:
    """`gracile.data.describe` as plain values; of images also ``examples``: the first ones of each class as one PNG."""
    found = describe(splits).to_json()
    return found | {"examples": _examples(splits.train)} if splits.train.is_image else found


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
