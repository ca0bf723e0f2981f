"""The digits that come with scikit-learn: 1,797 gray images of 8x8 pixels; nothing to download."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from gracile.data.source import Opened, Part, Request, array_reader


def open_source(request: Request) -> Opened:
    """Open the digits; pixel values 0 .. 16 become 0 .. 255."""
    from sklearn.datasets import load_digits

    bunch = cast(Any, load_digits())
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    part = Part(bunch.target.astype(np.int64), (1, 8, 8), np.uint8, array_reader(images))
    return Opened("digits", tuple(str(digit) for digit in range(10)), {"train": part})
