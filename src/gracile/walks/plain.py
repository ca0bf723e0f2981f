"""The walk step by step, as it is defined: the plain twin of the fast ones, with every xi drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gracile.walks.staying import Staying

Ints = NDArray[np.int64]


def run(
    walk: Staying,
    walkers: int,
    times: Ints,
    rng: np.random.Generator,
    record: Callable[[int, Ints], None],
    *,
    by_walk: bool = False,
) -> None:
    """Step `walkers` walkers to the last of `times`, calling `record(index, positions)` at each.

    Args:
        walk: the model.
        walkers: how many.
        times: increasing, at least 1.
        rng: what the steps are drawn from.
        record: is given positions of shape (walkers, d).
        by_walk: a growing noise counts the steps of the walk, else the crossings of the edge.
    """
    d = walk.dim
    x = np.zeros((walkers, d), dtype=np.int64)
    everyone = np.arange(walkers)
    # Direction k < d is +e_k, and k + d its opposite.
    direction = rng.integers(0, 2 * d, walkers)
    m = np.zeros(walkers)
    wanted = 0
    for n in range(int(times[-1])):
        if n:
            count = np.full(walkers, float(n)) if by_walk else m
            xi = walk.noise.sample(rng, walkers, count) if walk.perturbed else np.zeros(walkers)
            stay = np.maximum(1 - walk.leave0(m) - walk.delta * xi, 0.0)
            stays = rng.random(walkers) < stay
            back = (direction + d) % (2 * d)
            other = (back + rng.integers(1, 2 * d, walkers)) % (2 * d)
            direction = np.where(stays, back, other)
            m = np.where(stays, m + 1, 1.0)
        else:
            m[:] = 1.0
        x[everyone, direction % d] += np.where(direction < d, 1, -1)
        if n + 1 == times[wanted]:
            record(wanted, x)
            wanted += 1
