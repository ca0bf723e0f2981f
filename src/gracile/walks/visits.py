"""Exact draws of tau, the number of crossings of one edge, at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gracile.walks.reinforcement import Shape
from gracile.walks.series import survival
from gracile.walks.staying import Staying

Ints = NDArray[np.int64]

# Crossings with a table; what is longer is drawn by thinning.
TABLE = 1 << 15
# P(tau > table) below this is nothing: no double below 1 resolves it.
NOTHING = 1e-17


class TauLaw:
    """The law of tau, cut at `cap`: by inversion up to a table's end, by thinning beyond.

    Args:
        walk: the model, with visits that are alike.
        cap: longer visits are reported as `cap`; the simulated time ends before.
    """

    def __init__(self, walk: Staying, cap: int) -> None:
        self.walk = walk
        self.cap = cap
        size = min(TABLE, cap)
        self.leave = walk.leave(np.arange(1.0, size + 1))
        g: NDArray[Any] = survival(self.leave.astype(np.longdouble))
        ends = np.flatnonzero(g < NOTHING)
        if len(ends):
            size = max(int(ends[0]), 1)
        self.size = size
        # P(tau >= 1), ..., P(tau >= size), and P(tau > size).
        self._survival = g[:size]
        self.beyond = float(g[size]) if not len(ends) else 0.0
        self.mean_below = float(self._survival.sum())
        self._rising = -np.append(self._survival, self.beyond).astype(float)
        self._shape: Shape = walk.f.shape_beyond(float(size), walk.dim)

    def probabilities(self) -> NDArray[Any]:
        """P(tau = 1), ..., P(tau = size), in long doubles."""
        return self._survival * self.leave[: self.size]

    def draw(self, rng: np.random.Generator, count: int) -> Ints:
        """Draw tau `count` times."""
        # tau is the number of n with P(tau >= n) > u.
        tau = np.searchsorted(self._rising, rng.random(count) - 1.0).astype(np.int64)
        np.maximum(tau, 1, out=tau)
        long = np.flatnonzero(tau > self.size)
        if len(long):
            tau[long] = self.draw_long(rng, len(long))
        return tau

    def draw_short(self, rng: np.random.Generator, count: int) -> Ints:
        """Draw tau given that it does not exceed the table."""
        # u runs over (P(tau > size), 1].
        u = 1.0 - rng.random(count) * (1.0 - self.beyond)
        tau = np.searchsorted(self._rising, -u).astype(np.int64)
        return np.clip(tau, 1, self.size, out=tau)

    def draw_long(self, rng: np.random.Generator, count: int) -> Ints:
        """Draw tau given that it exceeds the table, by thinning a bound of the hazard over [m, 2m]."""
        if self.size >= self.cap:
            return np.full(count, self.cap, dtype=np.int64)
        tau = np.full(count, float(self.cap))
        m = np.full(count, float(self.size + 1))
        left = np.arange(count)
        while len(left):
            now = m[left]
            most = self.walk.leave_at_most(now, 2 * now, self._shape)
            with np.errstate(divide="ignore", over="ignore"):
                skipped = np.floor(rng.standard_exponential(len(left)) / -np.log1p(-most))
            met = now + skipped
            inside = met <= 2 * now
            m[left] = np.where(inside, met + 1, 2 * now + 1)
            tried = np.flatnonzero(inside & (met < self.cap))
            leaves = np.zeros(len(left), dtype=bool)
            if len(tried):
                leaves[tried] = rng.random(len(tried)) * most[tried] < self.walk.leave(met[tried])
                tau[left[leaves]] = met[leaves]
            left = left[~leaves & (m[left] < self.cap)]
        return tau.astype(np.int64)
