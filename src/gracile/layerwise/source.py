"""Data as a stream that can be passed over again: what every learner here is fitted to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gracile.core.errors import DataError, InputError
from gracile.core.estimators import as_tensor
from gracile.layerwise.consensus import Consensus, Shared, joined
from gracile.layerwise.statistics import Dual, Statistics, accumulate, gather

Batches = Callable[[], Iterable[tuple[Any, Any]]]
"""Called for each pass; yields (X, y) arrays of any number of samples, the same ones in the same order each time."""

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Source:
    """Inputs x (samples, P) and targets t (samples, Q), in chunks, on the device and in the type the learner works in.

    Attributes:
        batches: raw (X, y).
        features: P.
        outputs: Q.
        encode: y (b,) or (b, Q) to targets (b, Q) on the CPU.
        device, dtype: where and in what the learner works.
        batch_size: samples a chunk at most.
        workers: the network that other parts of the data lie with, None when this is all.
        share: (which, of how many): only this contiguous share of each batch.
    """

    batches: Batches
    features: int
    outputs: int
    encode: Callable[[np.ndarray], Tensor]
    device: torch.device
    dtype: torch.dtype
    batch_size: int
    workers: Consensus | None = None
    share: tuple[int, int] = (0, 1)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        which, of = self.share
        for x, y in self.batches():
            first, last = len(x) * which // of, len(x) * (which + 1) // of
            for start in range(first, last, self.batch_size):
                piece = slice(start, min(start + self.batch_size, last))
                yield as_tensor(x[piece], self.dtype, self.device), self.encode(y[piece]).to(self.device, self.dtype)

    def through(self, network: Callable[[Tensor], Tensor]) -> Features:
        """The stream with its inputs replaced by `network(x)`, computed anew at each pass instead of kept."""
        return Features(self, network)

    def take(self, samples: int) -> tuple[Tensor, Tensor]:
        """The first `samples` samples."""
        held: list[tuple[Tensor, Tensor]] = []
        for x, t in replace(self, batch_size=min(self.batch_size, samples)):
            held.append((x, t))
            if sum(len(part) for part, _ in held) >= samples:
                break
        return torch.cat([x for x, _ in held])[:samples], torch.cat([t for _, t in held])[:samples]


@dataclass(frozen=True)
class Features:
    """A stream of features `network(x)` and targets, called for each pass.

    Attributes:
        source: where x and the targets come from.
        network: x (b, P) to features (b, n).
    """

    source: Source
    network: Callable[[Tensor], Tensor]

    def __call__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((self.network(x), t) for x, t in self.source)

    def problem(self, primal: bool = False) -> Statistics | Dual | Shared:
        """The least-squares problem of all samples, wherever they lie; one pass.

        Args:
            primal: no `Dual`, even when samples are few.
        """
        source = self.source
        if source.workers is None:
            return accumulate(self) if primal else gather(self)
        hosted = source.workers.hosted
        shares = [replace(source, share=(which, hosted)).through(self.network) for which in range(hosted)]
        return joined([accumulate(share) for share in shares], source.workers, source.dtype)


def dtype_of(name: str) -> torch.dtype:
    """The floating type by name.

    Raises:
        InputError: neither "float32" nor "float64".
    """
    if name not in DTYPES:
        raise InputError(f"dtype = {name!r} is not supported.", 'Choose "float32" or "float64".')
    return DTYPES[name]


def check_matrix(x: Any, features: int | None) -> np.ndarray | Tensor:
    """A batch of a user's stream: a finite matrix with the number of features of the earlier ones.

    Raises:
        DataError: otherwise.
    """
    if not isinstance(x, Tensor):
        x = np.asarray(x)
    if x.ndim != 2:
        raise DataError(
            f"A batch of X has the shape {tuple(x.shape)}.", "Give (samples, features); flatten images first."
        )
    if features is not None and x.shape[1] != features:
        raise DataError(
            f"A batch of X has {x.shape[1]} features and the first one had {features}.", "Give the same features."
        )
    finite = torch.isfinite(x).all() if isinstance(x, Tensor) else np.isfinite(x).all()
    if not bool(finite):
        raise DataError("A batch of X contains NaN or infinity.", "Drop or fill those samples.")
    return x


class Varies:
    """Whether any feature takes more than one value, told from batches."""

    def __init__(self) -> None:
        self.first: np.ndarray | None = None
        self.found = False

    def see(self, x: Any) -> None:
        if self.found or not len(x):
            return
        x = x.cpu().numpy() if isinstance(x, Tensor) else x
        if self.first is None:
            self.first = np.array(x[0])
        # Most data vary within their first rows; only if they do not is everything looked at.
        self.found = bool((x[:64] != self.first).any()) or bool((x != self.first).any())

    def check(self) -> None:
        """Raises DataError when nothing varied."""
        if not self.found:
            raise DataError(
                "Every feature of X is constant, so all samples look the same.",
                "Check how X was made; there is nothing to learn from.",
            )
