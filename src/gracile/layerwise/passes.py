"""A user's stream of batches, checked at every pass over it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor

from gracile.core.errors import DataError, InputError
from gracile.core.row_keys import digest_of
from gracile.core.sample_weights import check_weights

Given = Callable[[], Iterable[Any]] | Iterable[Any]
"""A stream as a user gives it: a DataLoader, a list, or a function that returns an iterable anew at every call."""


class Passes:
    """Batches (X, y, weights or None) of a user's stream, anew at every call; later passes have to hold what the first did.

    Empty batches are left out. Rows are hashed exactly, so that a pass may come in other batches than the one before.

    Args:
        given: the stream; its batches are (X, y) or (X, y, sample_weight).
        ordered: whether the samples have to come in the same order each time, or may be shuffled.

    Raises:
        InputError: an iterator, which can be passed over only once, or nothing that holds batches.
    """

    def __init__(self, given: Given, ordered: bool) -> None:
        if isinstance(given, Iterator):
            raise InputError(
                "The batches can be passed over only once.",
                "Give a DataLoader, a list of batches, or the generator function itself instead of what it returned.",
            )
        if not callable(given) and not isinstance(given, Iterable):
            raise InputError(f"A {type(given).__name__} is no stream of batches.", "Give a list of (X, y), say.")
        self.given, self.ordered = given, ordered
        self._features: int | None = None
        self._before: tuple[int, int] | None = None

    def __call__(self) -> Iterator[tuple[Any, np.ndarray, np.ndarray | None]]:
        """One pass.

        Raises:
            DataError: a batch that is no finite matrix with a label for each row, or, at the end, a pass whose samples
                are not those of the first.
        """
        rows, digest = 0, 0
        for batch in self.given() if callable(self.given) else self.given:
            if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
                raise DataError("A batch of the stream is no pair.", "Yield (X, y), or (X, y, sample_weight).")
            x, y, w = check_matrix(batch[0], self._features), array_of(batch[1]), None
            if x.shape[0] != len(y):
                raise DataError(
                    f"A batch has {x.shape[0]} rows of X and {len(y)} of y.", "Give one y for each row of X."
                )
            if len(batch) == 3:
                w = check_weights(batch[2], len(y))
                present = w > 0
                if not present.all():
                    # A sample of no weight is no sample.
                    x, y, w = x[torch.from_numpy(present) if isinstance(x, Tensor) else present], y[present], w[present]
            if not len(y):
                continue
            self._features = x.shape[1]
            digest = (digest + digest_of(x, y, rows if self.ordered else None)) % 2**64
            rows += len(y)
            yield x, y, w
        if self._before is None:
            self._before = rows, digest
        elif self._before[0] != rows:
            raise DataError(
                f"A pass over the stream gave {rows} samples and the first one {self._before[0]}.",
                "Make every pass give the same samples.",
            )
        elif self._before[1] != digest:
            order = "the same samples in the same order" if self.ordered else "the same samples"
            raise DataError(
                f"A pass over the stream did not give {order} as the first one.",
                f"Switch off {'shuffling and ' if self.ordered else ''}augmentation that draws anew at every pass.",
            )


def array_of(y: Any) -> np.ndarray:
    """Targets of a batch as an array."""
    return y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)


def check_matrix(x: Any, features: int | None) -> Any:
    """A batch of a user's stream: a finite matrix of as many features as earlier ones had; CSR where it is sparse.

    Raises:
        DataError: otherwise.
    """
    if not isinstance(x, Tensor):
        x = x.tocsr() if issparse(x) else np.asarray(x)
    if x.ndim != 2:
        raise DataError(
            f"A batch of X has the shape {tuple(x.shape)}.", "Give (samples, features); flatten images first."
        )
    if features is not None and x.shape[1] != features:
        raise DataError(
            f"A batch of X has {x.shape[1]} features and the first one had {features}.", "Give the same features."
        )
    values = x.data if issparse(x) else x
    finite = torch.isfinite(values).all() if isinstance(values, Tensor) else np.isfinite(values).all()
    if not bool(finite):
        raise DataError("A batch of X contains NaN or infinity.", "Drop or fill those samples.")
    return x
