"""Laws of the perturbation that change with the count of crossings, of mean 1 and variance n^2, or as a user gives them.

Theorem 2.5 of [@dinh2020] says that such noise makes the walk on the line diffusive. It depends on the law: what counts is not the
variance but the loss l_n = E min(q0(n), delta xi_n), and E[tau] is finite exactly where ``sum_n exp(-sum_{m<=n} l_m) / n`` is. A
law that is 0 most of the time and huge else has any variance at next to no loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from gracile.core.errors import InputError

Array = NDArray[np.float64]
# Nodes and reach of the tanh-sinh rule: its error is far below 1e-9 where the survival function is smooth inside.
NODES, REACH = 81, 3.2


class Varying:
    """What these laws share: they depend on n, and their losses need not grow with it.

    Attributes:
        summable: whether the losses have a finite sum over n; None where nothing is known beyond the laws seen.
    """

    grows = True
    ordered = False
    accuracy = 1e-12
    least = 0.0
    summable: bool | None = None

    def lost_error(self, delta: float) -> float:
        return 0.0

    def mean(self) -> float:
        return 1.0

    def bound(self) -> float:
        return np.inf


@dataclass(frozen=True)
class GrowingGamma(Varying):
    """xi_n of a gamma law with shape 1/n^2 and scale n^2. Its losses fall like log(n)/n^2: nu = 0 on the line."""

    summable = True

    def lost(self, c: Array, delta: float, log_delta: float, n: Array | float = 1.0) -> Array:
        shape, x = _squares(n) ** -1, c / delta / _squares(n)
        return delta * special.gammainc(shape + 1, x) + c * special.gammaincc(shape, x)

    def sample(self, rng: np.random.Generator, size: int, n: Array | float = 1.0) -> Array:
        return rng.gamma(_squares(n) ** -1, _squares(n), size)


@dataclass(frozen=True)
class GrowingTwoPoint(Varying):
    """xi_n = 1 + n^2 with probability 1/(1 + n^2), else 0. Its losses fall like 1/n^2: nu = 0 on the line."""

    summable = True

    def lost(self, c: Array, delta: float, log_delta: float, n: Array | float = 1.0) -> Array:
        high = 1 + _squares(n)
        return np.minimum(delta * high, c) / high

    def sample(self, rng: np.random.Generator, size: int, n: Array | float = 1.0) -> Array:
        high = 1 + _squares(n)
        return np.where(rng.random(size) * high < 1, high, 0.0)


@dataclass(frozen=True)
class GrowingLogNormal(Varying):
    """log xi_n normal with variance s = log(1 + n^2) and mean -s/2. Its losses fall like n^(-1/4): the walk is diffusive."""

    summable = False

    def lost(self, c: Array, delta: float, log_delta: float, n: Array | float = 1.0) -> Array:
        variance = np.log1p(_squares(n))
        deviation = np.sqrt(variance)
        log_x = np.log(c / delta)
        return delta * special.ndtr((log_x - variance / 2) / deviation) + c * special.ndtr(
            -(log_x + variance / 2) / deviation
        )

    def sample(self, rng: np.random.Generator, size: int, n: Array | float = 1.0) -> Array:
        variance = np.log1p(_squares(n))
        return np.exp(np.sqrt(variance) * rng.standard_normal(size) - variance / 2)


class GivenByCount(Varying):
    """A user's laws, from a function of n; its survival functions are integrated by the tanh-sinh rule.

    Args:
        laws: from n >= 1 to a scipy frozen distribution on x >= 0 that is continuous.

    Raises:
        InputError: a law gives mass to negative numbers.
    """

    accuracy = 1e-9

    def __init__(self, laws: Callable[[float], Any]) -> None:
        self.laws = laws
        for n in (1.0, 2.0, 1000.0):
            below = float(laws(n).cdf(-1e-300))
            if not below == 0:
                raise InputError(
                    f"The noise is negative with probability {below:.3g} at n = {n:g}.", "Give laws on x >= 0."
                )
        at = np.linspace(-REACH, REACH, NODES)
        inner = np.pi / 2 * np.sinh(at)
        # Places in (0, 1) and their weights.
        self._places = special.expit(2 * inner)
        self._weights = np.pi * np.cosh(at) * special.expit(2 * inner) * special.expit(-2 * inner) * (at[1] - at[0])

    def mean(self) -> float:
        """The largest of the means at n = 1, 10, ..., 10^6."""
        return max(float(self.laws(10.0**power).mean()) for power in range(7))

    def lost(self, c: Array, delta: float, log_delta: float, n: Array | float = 1.0) -> Array:
        c, n = np.broadcast_arrays(np.asarray(c, dtype=float), np.asarray(n, dtype=float))
        found = np.empty(c.shape)
        for place in np.ndindex(c.shape):
            survival = np.asarray(self.laws(float(n[place])).sf(c[place] * self._places / delta), dtype=float)
            found[place] = c[place] * float(survival @ self._weights)
        return found

    def sample(self, rng: np.random.Generator, size: int, n: Array | float = 1.0) -> Array:
        counts = np.broadcast_to(np.asarray(n, dtype=float), (size,))
        drawn = np.empty(size)
        for count in np.unique(counts):
            here = counts == count
            drawn[here] = self.laws(float(count)).rvs(size=int(here.sum()), random_state=rng)
        return drawn


def _squares(n: Array | float) -> Array:
    return np.square(np.asarray(n, dtype=float))
