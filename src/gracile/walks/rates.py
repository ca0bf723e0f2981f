"""How nu(delta) leaves nu(0): what theorems 2.3 to 2.6 say for f(m) = m, with the constants they leave open.

In d = 1, E[tau] ~ 2 log(1/p) where p = E min(delta xi, 1) is the least hazard, so nu ~ K / log(1/p) with K = (1 - log
2) / (2 log 2 - 1) = 0.794..., the constant of proposition 2.2.1. In d >= 2 the first-order change of nu under small
losses lost(m) is a linear functional of them, `first_order`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import mpmath
import numpy as np
from numpy.typing import NDArray

from gracile.core.errors import InputError
from gracile.walks import series
from gracile.walks.noise import Fixed, GrowingHalfNormal, HalfCauchy, LogPareto, Noise, Pareto
from gracile.walks.noise import noise as understand_noise
from gracile.walks.reinforcement import LinearReinforcement
from gracile.walks.staying import Staying
from gracile.walks.walk import SenileWalk

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Rate:
    """A rate: nu(delta) - nu(0) ~ slope x(delta).

    Attributes:
        axis: x in words.
        x: from |log delta| to x.
        slope: the constant, derived from the first-order change (not from any fit).
    """

    axis: str
    x: Callable[[float], float]
    slope: float


INVERSE_LOG = ("1/|log delta|", lambda size: 1 / size)
INVERSE_LOG_LOG = ("1/log|log delta|", lambda size: 1 / math.log(size))
LINEAR = ("delta", lambda size: math.exp(-size))
LINEAR_LOG = ("delta |log delta|", lambda size: math.exp(-size) * size)
INVERSE_LOG_SQUARED = ("1/log^2 delta", lambda size: size**-2)


def slow_constant() -> float:
    """K = lim (log n / n) E|S_n|^2 in d = 1 without perturbation."""
    growth = SenileWalk(1).diffusivity().growth
    assert growth is not None
    return growth.coefficient


@cache
def _unperturbed(dim: int, terms: int = 1 << 20) -> tuple[Array, Array, float, float]:
    """q0(m) for m < terms, G(n) for n <= terms, E[tau] and P(tau odd)."""
    walk = Staying(dim, LinearReinforcement(1.0), 0.0, -math.inf, Fixed())
    leave = walk.leave0(np.arange(1.0, terms))
    found = SenileWalk(dim).diffusivity()
    return 1 - leave, series.survival(leave), found.mean_tau, found.p_odd


def first_order(dim: int, lost: Callable[[Array, Array], Array]) -> float:
    """The derivative d nu / d t at t = 0 where q(m) = q0(m) - t lost(m, q0(m)), for f(m) = m in d >= 2.

    With Phi(n) = sum_{m<n} lost(m) / q0(m): dE[tau] = -sum_n G(n) Phi(n) and dP(tau odd) = -sum_n (-1)^(n+1) G(n)
    Phi(n).

    Args:
        dim: d >= 2.
        lost: the loss per unit, from arrays m and q0(m); bounded, or growing like m at most (then d >= 3).

    Raises:
        InputError: d = 1, where E[tau] is infinite and there is no first order.
    """
    if dim < 2:
        raise InputError(
            "In d = 1 the unperturbed walk has infinite E[tau], so nu has no first-order change.", "Take d >= 2."
        )
    q0, g, mean, odd = _unperturbed(dim)
    m = np.arange(1.0, len(q0) + 1)
    loss = lost(m, q0)
    phi = np.concatenate([[0.0], np.cumsum(loss / q0)])
    terms = g * phi
    d_mean = -float(terms.sum())
    # Beyond the last term N the loss is taken as constant. Sums of Gamma ratios: with alpha = 1, beta = 2d, s = 2d - 2,
    # sum_{n>N} G(n) = G(N+1) (N + beta) / s and sum_{n>N} (n - N) G(n) = G(N+1) (N + beta) (N + beta - 1) / (s (s -
    # 1)).
    n, beta, s = float(len(g)), 2.0 * dim, 2.0 * dim - 2
    after = float(g[-1]) * (n + 1) / (n + beta)
    d_mean -= after * (n + beta) / s * (phi[-1] + float(loss[-1]) * (n + beta - 1) / (s - 1))
    sign = np.where(np.arange(len(terms)) % 2 == 0, 1.0, -1.0)
    # Half of the last term stands for the rest of an alternating sum.
    d_odd = -(float((terms * sign).sum()) - float(terms[-1] * sign[-1]) / 2)
    nu = odd / ((1 - odd / dim) * mean)
    return float(nu * (d_odd / (odd * (1 - odd / dim)) - d_mean / mean))


def mean_of(noise: Noise) -> float:
    """E xi, where a rate needs it.

    Raises:
        InputError: it is infinite.
    """
    mean = noise.mean()
    if not math.isfinite(mean):
        raise InputError(
            f"The linear rate needs the mean of the noise, and {noise} has none that is finite.",
            "Use the rate of its own tail (half-cauchy, pareto, log-pareto), or a law with a finite mean.",
        )
    return mean


def published(dim: int, noise: object) -> tuple[str, Callable[[float], float]]:
    """The axis that the theorems name for a law: its words, and x as a function of |log delta|."""
    law = understand_noise(noise)
    if dim == 1:
        return INVERSE_LOG_LOG if isinstance(law, LogPareto) else INVERSE_LOG
    if isinstance(law, LogPareto):
        return INVERSE_LOG_SQUARED
    if isinstance(law, HalfCauchy) or (isinstance(law, Pareto) and law.j == 1):
        return LINEAR_LOG
    if isinstance(law, Pareto) and law.j < 1:
        j = law.j
        return (f"delta^{j:g}", lambda size: math.exp(-j * size))
    return LINEAR


def derived(dim: int, noise: object) -> Rate:
    """The rate with its constant, for f(m) = m.

    Args:
        dim: d.
        noise: as for `SenileWalk`.

    Raises:
        InputError: no rate is known for this law: its mean is infinite and its tail is not one of the named ones.

    It differs from `published` in two cases. A tail P(xi > x) = 1/log^a x takes c P(delta xi > c) ~ 1/|log delta|^a
    from a probability c, more than the part below c alone, which is of order 1/|log delta|^(a+1); so in d >= 2 the
    density 1/(x log^2 x) gives 1/|log delta|. And with the growing half-normal law in d = 2 the first order diverges
    like sum 1/n up to n ~ delta^(-1/2).
    """
    law = understand_noise(noise)
    if dim == 1:
        k = slow_constant()
        if isinstance(law, LogPareto):
            return Rate(*INVERSE_LOG_LOG, k / law.a)
        if isinstance(law, GrowingHalfNormal):
            # The losses ~ delta m add up to one at n ~ delta^(-1/2).
            return Rate(*INVERSE_LOG, 2 * k)
        if isinstance(law, Pareto) and law.j < 1:
            return Rate(*INVERSE_LOG, k / law.j)
        if not isinstance(law, (HalfCauchy, Pareto)):
            mean_of(law)
        return Rate(*INVERSE_LOG, k)
    constant = lambda m, c: np.ones_like(c)
    if isinstance(law, LogPareto):
        # lost(c) ~ c P(xi > c / delta) ~ c / |log delta|^a.
        axis = INVERSE_LOG if law.a == 1 else INVERSE_LOG_SQUARED
        return Rate(*axis, first_order(dim, lambda m, c: c))
    if isinstance(law, GrowingHalfNormal):
        per_step = math.sqrt(2 / (math.pi - 2))
        if dim == 2:
            # G(n) ~ 24 / n^3, so that dE[tau] ~ -12 per_step delta log(delta^(-1/2)).
            _, _, mean, odd = _unperturbed(2)
            nu = odd / ((1 - odd / 2) * mean)
            return Rate(*LINEAR_LOG, nu / mean * 6 * per_step)
        return Rate(*LINEAR, first_order(dim, lambda m, c: per_step * m))
    if isinstance(law, HalfCauchy):
        return Rate(*LINEAR_LOG, 2 / math.pi * law.scale * first_order(dim, constant))
    if isinstance(law, Pareto) and law.j <= 1:
        axis, x = published(dim, law)
        j = law.j
        if j == 1:
            return Rate(axis, x, first_order(dim, constant))
        return Rate(axis, x, first_order(dim, lambda m, c: c ** (1 - j) / (1 - j)))
    return Rate(*LINEAR, mean_of(law) * first_order(dim, constant))


@dataclass(frozen=True)
class Point:
    """One exact value on a rate's axis.

    Attributes:
        decades: -log10 delta.
        x: the place on the derived axis.
        nu: the exact diffusivity.
        error_bound: a bound on its absolute error.
        gain: nu(delta) - nu(0).
    """

    decades: float
    x: float
    nu: float
    error_bound: float
    gain: float


def sweep(dim: int, noise: object, decades: Sequence[float]) -> list[Point]:
    """Exact diffusivities at delta = 10^-decades, for f(m) = m.

    Args:
        dim: d.
        noise: as for `SenileWalk`.
        decades: increasing; floats up to 1e280 where the model allows so small a delta.
    """
    rate = derived(dim, noise)
    start = SenileWalk(dim).diffusivity().nu
    points = []
    for power in decades:
        size = power * math.log(10)
        delta = 10.0**-power if power < 290 else mpmath.exp(-mpmath.mpf(size))
        found = SenileWalk(dim, delta=delta, noise=noise).diffusivity()
        points.append(Point(power, rate.x(size), found.nu, found.error_bound, found.nu - start))
    return points


def slopes(points: Sequence[Point]) -> list[float]:
    """The slopes between neighbouring points, from the largest delta on."""
    return [(a.gain - b.gain) / (a.x - b.x) for a, b in pairwise(points)]


def fitted(points: Sequence[Point]) -> float:
    """The least-squares slope of the gain against x over the given points."""
    x, y = np.array([p.x for p in points]), np.array([p.gain for p in points])
    x = x / x.max()
    return float(np.polyfit(x, y, 1)[0] / max(p.x for p in points))


def reach(points: Sequence[Point], slope: float, tolerance: float) -> float | None:
    """The decades of delta from which on gain / x stays within `tolerance` of the slope; None if it never does."""
    good = None
    for point in reversed(points):
        if abs(point.gain / point.x / slope - 1) > tolerance:
            break
        good = point.decades
    return good


@dataclass(frozen=True)
class Held:
    """A theorem's rate held against exact values.

    Attributes:
        derived: the rate with its constant.
        axis: the one the theorem names.
        points: the exact values.
        slope: fitted to the last of them.
        end_ratio: the last gain over its predicted one.
        seen: decades of delta from which on gain / x stays near the derived slope; None if it never does.
        growth: of gain over the theorem's own x between the last two points: 1 where its O(x) is sharp.
        error_bound: the largest relative bound on the error of a gain.
    """

    derived: Rate
    axis: str
    points: list[Point]
    slope: float
    end_ratio: float
    seen: float | None
    growth: float
    error_bound: float


def held_against(
    dim: int, noise: object, decades: Sequence[float], *, fit_last: int = 3, tolerance: float = 0.05
) -> Held:
    """Exact diffusivities at delta = 10^-decades beside the rates that are derived and published for them.

    Args:
        dim: d.
        noise: as for `SenileWalk`.
        decades: as for `sweep`, two at least.
        fit_last: how many of the smallest deltas the slope is fitted to.
        tolerance: see `reach`.
    """
    rate, (axis, x), points = derived(dim, noise), published(dim, noise), sweep(dim, noise, decades)
    # By the theorem's own axis: O(x) holds if gain / x stays bounded, and is sharp if it tends to a constant.
    size = [point.decades * math.log(10) for point in points]
    return Held(
        rate, axis, points, fitted(points[-fit_last:]),
        end_ratio=points[-1].gain / points[-1].x / rate.slope,
        seen=reach(points, rate.slope, tolerance),
        growth=(points[-1].gain / x(size[-1])) / (points[-2].gain / x(size[-2])),
        error_bound=max(point.error_bound / abs(point.gain) for point in points),
    )  # fmt: skip
