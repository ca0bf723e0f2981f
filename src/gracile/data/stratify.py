"""Rows drawn class by class, so that every subset keeps the classes' shares."""

from __future__ import annotations

import numpy as np
import torch

from gracile.core.errors import DataError
from gracile.core.seeding import generator


def draw(
    labels: np.ndarray, count: int, seed: int, purpose: str, *, what: str, classes: tuple[str, ...], rest: bool = False
) -> np.ndarray:
    """Draw `count` rows so that each class has its share (largest remainder) and at least one row.

    Each class is shuffled by seed and purpose and its first rows are taken: a smaller draw lies in a larger one.

    Args:
        labels: (n,) class numbers.
        count: rows to draw, 1 to n.
        seed: of the random stream.
        purpose: names the random stream, such as "validation".
        what: for messages, such as "the validation split of mnist".
        classes: the classes' names, for messages.
        rest: whether a row of every class must also be left.

    Returns:
        (count,) sorted row numbers.

    Raises:
        DataError: more rows asked for than there are, or fewer than classes, or a class has too few rows.
    """
    sizes = np.bincount(labels)
    present = np.flatnonzero(sizes)
    smallest = present[np.argmin(sizes[present])]
    if rest and sizes[smallest] < 2:
        raise DataError(
            f"Class '{classes[smallest]}' has one sample left, and {what} needs one there and one left over.",
            "Add samples of that class, leave the class out, or give splits of your own.",
        )
    room = sizes[present] - int(rest)
    if count > room.sum():
        raise DataError(
            f"{what[0].upper()}{what[1:]} asks for {count} samples, and there are {room.sum()} to take.",
            "Ask for fewer.",
        )
    if count < len(present):
        raise DataError(
            f"{what[0].upper()}{what[1:]} asks for {count} samples, fewer than the {len(present)} classes.",
            "Ask for one per class at least.",
        )
    shares = _apportion(sizes[present], room, count)
    stream = generator(seed, purpose)
    rows = []
    for label, share in zip(present, shares, strict=True):
        members = np.flatnonzero(labels == label)
        rows.append(members[torch.randperm(len(members), generator=stream).numpy()[:share]])
    return np.sort(np.concatenate(rows))


def _apportion(sizes: np.ndarray, room: np.ndarray, count: int) -> np.ndarray:
    """Split `count` in proportion to `sizes`, each at least 1 and at most `room`, by largest remainder."""
    ideal = count * sizes / sizes.sum()
    shares = np.clip(np.floor(ideal).astype(np.int64), 1, room)
    while (missing := count - shares.sum()) != 0:
        step = 1 if missing > 0 else -1
        open_to = shares < room if step > 0 else shares > 1
        # Those furthest from their ideal share move first, ties in the order of the classes.
        order = np.argsort(-(ideal - shares) * step, kind="stable")
        order = order[open_to[order]][: abs(missing)]
        shares[order] += step
    return shares
