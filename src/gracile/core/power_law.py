"""Power laws through measured points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """The exponent of a power law through points, by least squares on logarithms.

    Args:
        points: at least two, of different x, none below 0; a zero counts as the smallest normal number of float64.
    """
    x, y = np.log(np.maximum(np.array(points, dtype=float).T, np.finfo(float).tiny))
    return float(np.polyfit(x, y, 1)[0])
