"""Batches from a split: gathered by index and augmented where the data live; from a file, fetched ahead by a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from gracile.core.errors import InputError
from gracile.core.seeding import generator as seeded
from gracile.data.dataset import Dataset
from gracile.data.mapped import MappedRows

# Batches gathered from a file ahead of the one in use.
AHEAD = 3


def batches(
    data: Dataset,
    batch_size: int,
    *,
    order: torch.Tensor | None = None,
    augment: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None,
    generator: torch.Generator | None = None,
    drop_last: bool = False,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Go once through a split.

    Args:
        data: the split.
        batch_size: samples per batch, at least 1.
        order: (m,) indices into the split, such as a random permutation; None goes through it as it stands.
        augment: called with the uint8 images of a batch and `generator`.
        generator: what `augment` draws from; needed with it, unused without.
        drop_last: leave out a last batch that is not full.

    Yields:
        x: float32 on the data's device, images in [0, 1] as (b, c, h, w), features as they stand as (b, features).
        y: int64 (b,).

    Raises:
        InputError: `batch_size` below 1, or `augment` without `generator`.
    """
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}.", "Give a whole number from 1 on.")
    if augment is not None and generator is None:
        raise InputError(
            "augment is given without a generator to draw from.",
            "Pass generator=, as from gracile.core.seeding.generator.",
        )
    return _batches(data, batch_size, order, augment, generator, drop_last)


def _batches(
    data: Dataset,
    batch_size: int,
    order: torch.Tensor | None,
    augment: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None,
    generator: torch.Generator | None,
    drop_last: bool,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    total = len(data) if order is None else len(order)
    if order is not None:
        order = order.to(data.device)
    stop = total - total % batch_size if drop_last else total
    pieces: list[slice | torch.Tensor] = [
        slice(start, min(start + batch_size, total)) if order is None else order[start : start + batch_size]
        for start in range(0, stop, batch_size)
    ]
    inputs = data.inputs
    gathered = _ahead(inputs, pieces) if isinstance(inputs, MappedRows) else (_rows(inputs, piece) for piece in pieces)
    for piece, x in zip(pieces, gathered, strict=True):
        if augment is not None and generator is not None:
            x = augment(x, generator)
        if x.dtype == torch.uint8:
            x = x.to(torch.float32).div_(255)
        # Labels taken by a slice would share memory with the data set, and inputs of features too.
        elif isinstance(piece, slice):
            x = x.clone()
        yield x, data.labels[piece].clone() if isinstance(piece, slice) else data.labels[piece]


def _rows(inputs: torch.Tensor, piece: slice | torch.Tensor) -> torch.Tensor:
    # index_select copies whole rows; indexing with a tensor goes element by element and takes twice as long.
    return inputs[piece] if isinstance(piece, slice) else inputs.index_select(0, piece)


def _ahead(rows: MappedRows, pieces: list[slice | torch.Tensor]) -> Iterator[torch.Tensor]:
    """Gather pieces in order, a few ahead of the consumer."""
    with ThreadPoolExecutor(1, thread_name_prefix="gracile-batches") as pool:
        waiting: deque[Future[torch.Tensor]] = deque()
        for piece in pieces:
            waiting.append(pool.submit(rows.gather, piece))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result().to(rows.device, non_blocking=True)
        while waiting:
            yield waiting.popleft().result().to(rows.device, non_blocking=True)


def some(data: Dataset, count: int) -> Dataset:
    """A fixed draw of at most `count` samples, such as those that calibrate int8."""
    order = torch.randperm(len(data), generator=seeded(0, "calibration"))
    return data.subset(order[:count])


def whole(data: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """All samples of a split at once, as `batches` gives them."""
    return next(batches(data, max(1, len(data))))


def arrays(data: Dataset, order: torch.Tensor | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A split as estimators take it: features (m, features), images' bytes as they are, and labels (m,).

    Args:
        data: the split.
        order: (m,) indices into it; all samples by default.
    """
    rows = torch.arange(len(data)) if order is None else order
    return data.inputs[rows].flatten(1).numpy(), data.labels[rows].numpy()
