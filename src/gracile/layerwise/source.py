"""Data as a stream that can be passed over again: what every learner here is fitted to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gracile.core.errors import InputError
from gracile.core.estimators import as_tensor
from gracile.layerwise.consensus import Consensus
from gracile.layerwise.shared import Shared, joined
from gracile.layerwise.statistics import Dual, Statistics, accumulate, gather, weighted

Batches = Callable[[], Iterable[tuple[Any, Any, Any]]]
"""Called for each pass; yields (X, y, weights or None), the same samples in the same order each time."""

DTYPES = {"float32": torch.float32, "float64": torch.float64}
# "auto" works in float64 up to so many samples, where it costs nothing that one would notice.
EXACT = 2000


class Chunk(NamedTuple):
    """Some samples: inputs x (b, P), targets t (b, Q), weights w (b,) or None where all count alike."""

    x: Tensor
    t: Tensor
    w: Tensor | None


@dataclass(frozen=True)
class Scaling:
    """Inputs less `shift` times `factor`, both (P,) and float64."""

    shift: Tensor
    factor: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Scaled rows (b, P), in float64 and in place where they are that already."""
        return x.double().sub_(self.shift).mul_(self.factor)

    def stacked(self) -> Tensor:
        """Both as one tensor (2, P)."""
        return torch.stack([self.shift, self.factor])

    def folded(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """What a first layer's weight (n, P) and bias (n,) are for inputs that are not scaled."""
        wide = weight.double() * self.factor
        return wide.to(weight.dtype), (bias.double() - wide @ self.shift).to(bias.dtype)


@dataclass(frozen=True)
class Source:
    """Inputs and targets in chunks, on the device and in the type the learner works in.

    Attributes:
        batches: raw (X, y, weights).
        features: P.
        outputs: Q.
        rows: samples, of all workers.
        encode: y (b,) or (b, Q) to targets (b, Q) on the CPU.
        device: where the learner works.
        dtype: in what it works.
        batch_size: samples per chunk at most.
        scaling: of the inputs, None to take them as they are.
        workers: the network that other parts of the data lie with, None when this is all.
        share: (which, of how many): only this contiguous share of each batch.
    """

    batches: Batches
    features: int
    outputs: int
    rows: int
    encode: Callable[[np.ndarray], Tensor]
    device: torch.device
    dtype: torch.dtype
    batch_size: int
    scaling: Scaling | None = None
    workers: Consensus | None = None
    share: tuple[int, int] = (0, 1)

    def __iter__(self) -> Iterator[Chunk]:
        which, of = self.share
        for x, y, w in self.batches():
            first, last = x.shape[0] * which // of, x.shape[0] * (which + 1) // of
            for start in range(first, last, self.batch_size):
                piece = slice(start, min(start + self.batch_size, last))
                yield self._chunk(x[piece], y[piece], None if w is None else w[piece])

    def _chunk(self, x: Any, y: Any, w: Any) -> Chunk:
        if self.scaling is None:
            inputs = as_tensor(x, self.dtype, self.device)
        else:
            wide = as_tensor(x, torch.float64, self.device)
            # The caller's own float64 array is not scaled in place.
            inputs = self.scaling(wide.clone() if _same_memory(wide, x) else wide).to(self.dtype)
        weights = None if w is None else as_tensor(w, self.dtype, self.device)
        return Chunk(inputs, self.encode(y).to(self.device, self.dtype), weights)

    def through(self, network: Callable[[Tensor], Tensor]) -> Features:
        """The stream with its inputs replaced by `network(x)`, computed anew at each pass instead of kept."""
        return Features(self, network)

    def sample(self, most: int) -> tuple[Chunk, Tensor]:
        """At most so many samples, evenly spaced over those at hand, and their places in the stream; one pass."""
        step = max(1, -(-self.rows // most))
        held: list[Chunk] = []
        places: list[Tensor] = []
        start = 0
        for chunk in self:
            rows = torch.arange(-start % step, len(chunk.x), step, device=self.device)
            held.append(Chunk(chunk.x[rows], chunk.t[rows], None if chunk.w is None else chunk.w[rows]))
            places.append(rows + start)
            start += len(chunk.x)
        return joined_chunks(held), torch.cat(places)


@dataclass(frozen=True)
class Features:
    """A stream of features `network(x)`, targets and weights, called for each pass; see `statistics.Stream`.

    Attributes:
        source: where x and the targets come from.
        network: x (b, P) to features (b, n).
    """

    source: Source
    network: Callable[[Tensor], Tensor]

    def __call__(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        return (weighted(self.network(x), t, w) for x, t, w in self.source)

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


def joined_chunks(chunks: Sequence[Chunk]) -> Chunk:
    """Chunks behind each other as one."""
    weights = [chunk.w for chunk in chunks if chunk.w is not None]
    return Chunk(
        torch.cat([chunk.x for chunk in chunks]),
        torch.cat([chunk.t for chunk in chunks]),
        torch.cat(weights) if weights else None,
    )


def dtype_of(name: str, rows: int) -> torch.dtype:
    """The floating type by name; "auto" is float64 for few samples and float32 for many.

    Raises:
        InputError: no such name.
    """
    if name == "auto":
        return torch.float64 if rows <= EXACT else torch.float32
    if name not in DTYPES:
        raise InputError(f"dtype = {name!r} is not supported.", 'Choose "auto", "float32" or "float64".')
    return DTYPES[name]


def _same_memory(tensor: Tensor, x: Any) -> bool:
    if isinstance(x, Tensor):
        return tensor.data_ptr() == x.data_ptr()
    return isinstance(x, np.ndarray) and np.may_share_memory(tensor.cpu().numpy(), x)
