"""Exact checksums of the rows of a matrix, whatever type its numbers have and however it is stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor

from gracile.core.estimators import as_tensor

# Multipliers of splitmix64's finaliser, and of its counter.
MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
STEP = np.uint64(0x9E3779B97F4A7C15)
ROWS = 4096


def digest_of(x: Any, y: np.ndarray, start: int | None) -> int:
    """An exact checksum of rows and their labels; the sums of two sets of rows are the sum of theirs.

    Args:
        x: (b, P).
        y: (b,) or (b, Q).
        start: the place of the first row where their order counts, else None.
    """
    total = 0
    for first in range(0, len(y), ROWS):
        piece = slice(first, first + ROWS)
        hashes = _rows(_dense(x[piece])) + _rows(y[piece].reshape(len(y[piece]), -1)) * STEP
        if start is not None:
            hashes += np.arange(start + first, start + first + len(hashes), dtype=np.uint64) * STEP
        total += int(_mixed(hashes).sum(dtype=np.uint64))
    return total % 2**64


def keys_of(x: Any) -> np.ndarray:
    """A number for each row (b,), uint64, that looks random and is the same for rows of equal numbers of any type."""
    starts = range(0, x.shape[0], ROWS)
    return np.concatenate([_mixed(_rows(_dense(x[first : first + ROWS]).astype(np.float64) + 0.0)) for first in starts])


def _mixed(hashes: np.ndarray) -> np.ndarray:
    for multiplier, shift in zip(MIX, (30, 27), strict=True):
        hashes = (hashes ^ (hashes >> np.uint64(shift))) * multiplier
    return hashes ^ (hashes >> np.uint64(31))


def _rows(values: np.ndarray) -> np.ndarray:
    """A hash of each row (b,), uint64."""
    if values.dtype == object:
        return np.array([hash(tuple(row)) for row in values.tolist()], dtype=np.int64).view(np.uint64)
    raw = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
    raw = np.pad(raw, ((0, 0), (0, -raw.shape[1] % 8))).view(np.uint64)
    # The last bits of whole numbers as float64 are all zero, and a product would keep them so.
    for shift in (32, 16):
        raw = raw ^ (raw >> np.uint64(shift))
    factors = (np.arange(1, raw.shape[1] + 1, dtype=np.uint64) * STEP) | np.uint64(1)
    return (raw * factors).sum(1, dtype=np.uint64)


def _dense(x: Any) -> np.ndarray:
    if isinstance(x, Tensor):
        return as_tensor(x, torch.float64, torch.device("cpu")).numpy()
    return x.toarray() if issparse(x) else x
