"""Laws of the perturbation xi >= 0: the step stays with probability max(q0(m) - delta xi, 0).

All that the annealed walk needs of a law is what it takes away from a probability c on average,

    lost(c) = E min(delta xi, c) = integral_0^c P(delta xi > t) dt,

which is nondecreasing and concave in c whatever the law. It has a closed form for every named law.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from scipy import special

from gracile.core.errors import InputError, pick
from gracile.walks.varying import GivenByCount, GrowingGamma, GrowingLogNormal, GrowingTwoPoint

Array = NDArray[np.float64]


class Noise(Protocol):
    """A law of xi.

    Attributes:
        grows: whether the law depends on the count n (model III).
        ordered: whether what a growing law takes away does not fall with n.
        accuracy: relative accuracy of `lost`, as the functions it is made of document theirs.
        least: xi is never below this.
    """

    @property
    def grows(self) -> bool: ...

    @property
    def ordered(self) -> bool: ...

    @property
    def accuracy(self) -> float: ...

    @property
    def least(self) -> float: ...

    def lost(self, c: Array, delta: float, log_delta: float, n: Array | float = 1.0) -> Array:
        """E min(delta xi, c) for 0 < c <= 1; `log_delta` is exact where `delta` has underflowed."""
        ...

    def lost_error(self, delta: float) -> float:
        """A bound on the error of `lost` beyond rounding, for c <= 1."""
        ...

    def mean(self) -> float:
        """E xi, possibly infinite."""
        ...

    def bound(self) -> float:
        """The least b with xi <= b, possibly infinite."""
        ...

    def sample(self, rng: np.random.Generator, size: int, n: Array | float = 1.0) -> Array:
        """Draw xi."""
        ...


@dataclass(frozen=True)
class Fixed:
    """xi = 1: model I."""

    grows = False
    ordered = True
    accuracy = 1e-15
    least = 1.0

    def lost(self, c: Array, delta: float, log_delta: float, n: Array | float = 1.0) -> Array:
        return np.minimum(delta, c)

    def lost_error(self, delta: float) -> float:
        return 0.0

    def mean(self) -> float:
        return 1.0

    def bound(self) -> float:
        return 1.0

    def sample(self, rng: np.random.Generator, size: int, n: Array | float = 1.0) -> Array:
        return np.ones(size)


def _positive(value: float, what: str) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"The noise has {what} {value}; it would be negative or no law.", f"Give a finite {what} > 0.")


@dataclass(frozen=True)
class HalfCauchy:
    """Density (2/pi) g / (x^2 + g^2) on x >= 0; the mean is infinite.

    Args:
        scale: g.
    """

    scale: float = 1.0
    grows = False
    ordered = True
    accuracy = 2e-15
    least = 0.0

    def __post_init__(self) -> None:
        _positive(self.scale, "scale")

    def lost(self, c: Array, delta: float, log_delta: float, n: Array | float = 1.0) -> Array:
        d = delta * self.scale
        # For c / d beyond the square root of the largest double, log1p((c/d)^2) = 2 log(c/d).
        ratio = c / d
        logs = np.where(ratio > 1e9, 2 * np.log(ratio), np.log1p(np.minimum(ratio, 1e9) ** 2))
        return (2 * c * np.arctan(d / c) + d * logs) / math.pi

    def lost_error(self, delta: float) -> float:
        return 0.0

    def mean(self) -> float:
        return math.inf

    def bound(self) -> float:
        return math.inf

    def sample(self, rng: np.random.Generator, size: int, n: Array | float = 1.0) -> Array:
        return self.scale * np.abs(rng.standard_cauchy(size))


@dataclass(frozen=True)
class Pareto:
    """Density j x^-(1+j) on x >= 1; the mean is infinite for j <= 1.

    Args:
        j: the index of the tail P(xi > x) = x^-j.
    """

    j: float = 0.5
    grows = False
    ordered = True
    accuracy = 4e-15
    least = 1.0

    def __post_init__(self) -> None:
        _positive(self.j, "index j")

    def lost(self, c: Array, delta: float, log_delta: float, n: Array | float = 1.0) -> Array:
        ratio = np.maximum(c / delta, 1.0)
        # integral_1^r x^-j dx, written so that j = 1 is no exception.
        logs = np.log(ratio)
        power = (1 - self.j) * logs
        tail = np.where(
            np.abs(power) < 1e-5, logs * (1 + power / 2 + power**2 / 6), np.expm1(power) / (1 - self.j or 1.0)
        )
        return np.where(c <= delta, c, delta + delta * tail)

    def lost_error(self, delta: float) -> float:
        return 0.0

    def mean(self) -> float:
        return self.j / (self.j - 1) if self.j > 1 else math.inf

    def bound(self) -> float:
        return math.inf

    def sample(self, rng: np.random.Generator, size: int, n: Array | float = 1.0) -> Array:
        return (1 - rng.random(size)) ** (-1 / self.j)


@dataclass(frozen=True)
class LogPareto:
    """P(xi > x) = 1 / log^a x on x >= e: density 1 / (x log^2 x) for a = 1; the mean is infinite.

    Args:
        a: 1, the law of theorem 2.4 (ii), or 2, a lighter tail that is still infinite in mean.
    """

    a: int = 1
    grows = False
    ordered = True
    accuracy = 1e-13
    least = math.e

    def __post_init__(self) -> None:
        if self.a not in (1, 2):
            raise InputError(f"The tail 1 / log^a x is known for a = 1 and 2, not a = {self.a}.", "Give 1 or 2.")

    def lost(self, c: Array, delta: float, log_delta: float, n: Array | float = 1.0) -> Array:
        y = np.log(c) - log_delta
        inside = np.maximum(y, 1.0)
        scaled = _scaled_ei(inside) - (1 / inside if self.a == 2 else 0.0)
        at_e = float(special.expi(1.0)) - (math.e if self.a == 2 else 0.0)
        return np.where(y <= 1, c, delta * (math.e - at_e) + c * scaled)

    def lost_error(self, delta: float) -> float:
        return 0.0

    def mean(self) -> float:
        return math.inf

    def bound(self) -> float:
        return math.inf

    def sample(self, rng: np.random.Generator, size: int, n: Array | float = 1.0) -> Array:
        with np.errstate(over="ignore"):
            return np.exp((1 - rng.random(size)) ** (-1 / self.a))


def _scaled_ei(y: Array) -> Array:
    """exp(-y) Ei(y) for y >= 1; beyond 50 its asymptotic series, whose error is there below exp(-45)."""
    small = np.minimum(y, 50.0)
    large = np.maximum(y, 50.0)
    series = np.ones_like(y)
    for k in range(25, 0, -1):
        series = 1 + series * k / large
    series = series / large
    return np.where(y > 50, series, special.expi(small) * np.exp(-small))


@dataclass(frozen=True)
class Exponential:
    """Density exp(-x / mean) / mean.

    Args:
        scale: the mean.
    """

    scale: float = 1.0
    grows = False
    ordered = True
    accuracy = 1e-15
    least = 0.0

    def __post_init__(self) -> None:
        _positive(self.scale, "mean")

    def lost(self, c: Array, delta: float, log_delta: float, n: Array | float = 1.0) -> Array:
        d = delta * self.scale
        return -d * np.expm1(-c / d)

    def lost_error(self, delta: float) -> float:
        return 0.0

    def mean(self) -> float:
        return self.scale

    def bound(self) -> float:
        return math.inf

    def sample(self, rng: np.random.Generator, size: int, n: Array | float = 1.0) -> Array:
        return rng.exponential(self.scale, size)


@dataclass(frozen=True)
class Uniform:
    """Uniform on [0, high].

    Args:
        high: 2 by default, so that the mean is 1.
    """

    high: float = 2.0
    grows = False
    ordered = True
    accuracy = 1e-15
    least = 0.0

    def __post_init__(self) -> None:
        _positive(self.high, "upper end")

    def lost(self, c: Array, delta: float, log_delta: float, n: Array | float = 1.0) -> Array:
        top = delta * self.high
        inside = np.minimum(c, top)
        return inside * (1 - inside / (2 * top))

    def lost_error(self, delta: float) -> float:
        return 0.0

    def mean(self) -> float:
        return self.high / 2

    def bound(self) -> float:
        return self.high

    def sample(self, rng: np.random.Generator, size: int, n: Array | float = 1.0) -> Array:
        return rng.uniform(0.0, self.high, size)


@dataclass(frozen=True)
class GrowingHalfNormal:
    """Model III: xi_n = |Z| with a standard deviation of n, where n counts (see `SenileWalk`'s `clock`).

    Its mean is n sqrt(2 / (pi - 2)) and its variance n^2.
    """

    grows = True
    ordered = True
    accuracy = 4e-15
    least = 0.0

    # |Z| sigma has the variance sigma^2 (1 - 2/pi).
    sigma = 1 / math.sqrt(1 - 2 / math.pi)

    def lost(self, c: Array, delta: float, log_delta: float, n: Array | float = 1.0) -> Array:
        s = delta * self.sigma * np.asarray(n, dtype=float)
        # Beyond 1e3 both terms have their limits; squares would overflow.
        z = np.minimum(c / s / math.sqrt(2), 1e3)
        # erfc is only as accurate as its argument, relatively z^2 roundings; there the first term carries the sum.
        return s * math.sqrt(2 / math.pi) * -np.expm1(-(z**2)) + c * special.erfc(z)

    def lost_error(self, delta: float) -> float:
        return 0.0

    def mean(self) -> float:
        """The supremum over n of the means."""
        return math.inf

    def bound(self) -> float:
        return math.inf

    def sample(self, rng: np.random.Generator, size: int, n: Array | float = 1.0) -> Array:
        return self.sigma * np.asarray(n, dtype=float) * np.abs(rng.standard_normal(size))


class Given:
    """A user's law, from its distribution function alone.

    `lost` is bounded from both sides by Riemann sums of the survival function, which is monotone: rigorous for every
    law.

    Args:
        law: a scipy frozen distribution, or a callable x -> P(xi <= x) on arrays.

    Raises:
        InputError: the law gives mass to negative numbers, or is no distribution function.
    """

    grows = False
    ordered = True
    accuracy = 1e-15
    least = 0.0
    points = 400_000

    def __init__(self, law: Any) -> None:
        self.law = law
        self._tables: dict[float, tuple[Array, Array, float]] = {}
        below = float(np.asarray(self._cdf(np.array([-1e-300])))[0])
        if below > 0 or not math.isfinite(below):
            raise InputError(
                f"The noise {self._name()} is negative with probability {below:.3g}.", "Give a law on x >= 0."
            )
        values = self._cdf(np.concatenate([[0.0], np.geomspace(1e-6, 1e12, 200)]))
        bad = ~((values >= 0) & (values <= 1))
        if bad.any() or (np.diff(values) < -1e-12).any():
            raise InputError(
                f"The noise {self._name()} has a distribution function that leaves [0, 1] or decreases.",
                "Give a callable x -> P(xi <= x), or a scipy frozen distribution.",
            )
        if values[-1] < 0.5:
            raise InputError(
                f"The noise {self._name()} has more than half of its mass beyond 1e12.",
                "Give a law with its mass on the reals.",
            )

    def _name(self) -> str:
        dist = getattr(self.law, "dist", None)
        return dist.name if dist is not None else getattr(self.law, "__name__", repr(self.law))

    def _cdf(self, x: Array) -> Array:
        return np.asarray(self.law.cdf(x) if hasattr(self.law, "cdf") else self.law(x), dtype=float)

    def _survival(self, x: Array) -> Array:
        if hasattr(self.law, "sf"):
            return np.asarray(self.law.sf(x), dtype=float)
        return 1 - self._cdf(x)

    def _table(self, delta: float) -> tuple[Array, Array, float]:
        """Places t in [0, 1], the mean of the lower and upper Riemann sums to each, and half of their gap."""
        if delta not in self._tables:
            start = min(1e-9, delta * 1e-3)
            t = np.concatenate([[0.0], np.geomspace(start, 1.0, self.points)])
            with np.errstate(over="ignore"):
                survival = np.minimum.accumulate(np.clip(self._survival(t / delta), 0.0, 1.0))
            widths = np.diff(t)
            sums = np.concatenate([[0.0], np.cumsum(widths * (survival[1:] + survival[:-1]) / 2)])
            gap = float(np.sum(widths * (survival[:-1] - survival[1:])))
            self._tables[delta] = (t, sums, gap / 2)
        return self._tables[delta]

    def lost(self, c: Array, delta: float, log_delta: float, n: Array | float = 1.0) -> Array:
        # The mean of both sums is itself the loss of a law, one with steps, so it has the shape (concave,
        # nondecreasing) the bounds use.
        t, sums, _ = self._table(delta)
        return np.interp(c, t, sums)

    def lost_error(self, delta: float) -> float:
        _, sums, gap = self._table(delta)
        # The running sum's rounding counts where a law with steps on the grid leaves no gap.
        return gap + self.points * 1e-16 * float(sums[-1])

    def mean(self) -> float:
        if hasattr(self.law, "mean"):
            mean = float(self.law.mean())
            # scipy says nan where a mean does not exist as a finite number.
            return mean if mean == mean else math.inf
        return math.nan

    def bound(self) -> float:
        return float(self.law.support()[1]) if hasattr(self.law, "support") else math.inf

    def sample(self, rng: np.random.Generator, size: int, n: Array | float = 1.0) -> Array:
        if hasattr(self.law, "rvs"):
            return np.asarray(self.law.rvs(size=size, random_state=rng), dtype=float)
        u = rng.random(size)
        low, high = np.zeros(size), np.full(size, 1.0)
        for _ in range(1000):
            beyond = (self._cdf(high) < u) & (high < 1e300)
            if not beyond.any():
                break
            high[beyond] *= 2
        for _ in range(80):
            middle = (low + high) / 2
            right = self._cdf(middle) < u
            low, high = np.where(right, middle, low), np.where(right, high, middle)
        return high


NOISES: Mapping[str, Callable[..., Noise]] = {
    "half-cauchy": HalfCauchy,
    "pareto": Pareto,
    "log-pareto": LogPareto,
    "exponential": Exponential,
    "uniform": Uniform,
    "half-normal-n": GrowingHalfNormal,
    "gamma-n": GrowingGamma,
    "two-point-n": GrowingTwoPoint,
    "lognormal-n": GrowingLogNormal,
}


def noise(given: object) -> Noise:
    """Understand what a user gave.

    None is model I. A string names a row of `NOISES`, with its parameter after a colon (``"pareto:0.5"``). A scipy
    frozen distribution or a callable distribution function is a law of one's own; a function from n to a frozen distribution is
    one that changes with n (model III).

    Raises:
        InputError: none of these, or a law with negative values.
    """
    if given is None:
        return Fixed()
    if isinstance(given, str):
        name, _, parameter = given.partition(":")
        law = pick(NOISES, name, "noise")
        if not parameter:
            return law()
        try:
            value = int(parameter) if name == "log-pareto" else float(parameter)
        except ValueError:
            raise InputError(
                f"The noise '{given}' has a parameter that is no number.", "Write it as in pareto:0.5."
            ) from None
        if name.endswith("-n"):
            raise InputError(f"The noise '{name}' has no parameter.", "Leave out what follows the colon.")
        return law(value)
    if hasattr(given, "lost") and not isinstance(given, type):
        return cast(Noise, given)
    if callable(given) and not hasattr(given, "cdf") and hasattr(given(1.0), "sf"):
        return GivenByCount(given)
    if hasattr(given, "cdf") or callable(given):
        return Given(given)
    raise InputError(
        f"{given!r} is not a noise law.",
        "Give a name such as 'half-cauchy', a scipy frozen distribution, a callable x -> P(xi <= x), or one from n to a law.",
    )
