"""What is learned about a user's data in the pass before learning: size, spread, and whether anything varies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gracile.core.errors import DataError
from gracile.core.estimators import as_tensor

# Rows of a batch that are looked at as float64 at a time.
ROWS = 4096


class Moments:
    """Weighted mean and variance of columns, batch by batch, without the cancellation of plain sums of squares."""

    def __init__(self) -> None:
        self.weight = 0.0
        self.mean: Tensor | None = None
        self.squares: Tensor | None = None

    def add(self, x: Tensor, w: Tensor | None) -> None:
        """Rows x (b, P), float64, and their weights (b,)."""
        total = float(len(x) if w is None else w.sum())
        if not total > 0:
            return
        mean = x.mean(0) if w is None else w @ x / total
        around = (x - mean).square_()
        squares = around.sum(0) if w is None else w @ around
        if self.mean is None or self.squares is None:
            self.weight, self.mean, self.squares = total, mean, squares
            return
        apart, before = mean - self.mean, self.weight
        self.weight += total
        self.mean = self.mean + apart * (total / self.weight)
        self.squares = self.squares + squares + apart.square() * (before * total / self.weight)

    def variance(self) -> Tensor:
        """Of each column (P,)."""
        assert self.squares is not None
        return self.squares / self.weight


@dataclass
class Survey:
    """One pass over the inputs.

    Attributes:
        rows: samples.
        features: P.
        inputs: their moments, where they are asked for.
    """

    rows: int = 0
    features: int | None = None
    inputs: Moments | None = None
    _first: Tensor | None = field(default=None, repr=False)
    _varies: bool = field(default=False, repr=False)

    def see(self, x: Any, w: Any) -> None:
        """A checked batch x (b, P) with weights w (b,) or None."""
        self.features = x.shape[1]
        self.rows += x.shape[0]
        here = torch.device("cpu")
        for start in range(0, x.shape[0], ROWS):
            if self._varies and self.inputs is None:
                return
            part = as_tensor(x[start : start + ROWS], torch.float64, here)
            self._first = part[:1].clone() if self._first is None else self._first
            self._varies = self._varies or bool((part != self._first).any())
            if self.inputs is not None:
                self.inputs.add(part, None if w is None else as_tensor(w[start : start + ROWS], torch.float64, here))

    def check(self) -> None:
        """Raises DataError where nothing was seen, or nothing varied."""
        if not self.rows:
            raise DataError("The stream holds no sample.", "Make it yield (X, y), and anew at every call.")
        if not self._varies:
            raise DataError(
                "Every feature of X is constant, so all samples look the same.",
                "Check how X was made; there is nothing to learn from.",
            )
