"""E[tau] and P(tau odd) for any model from few values of q, with a rigorous bound.

With G(n) = P(tau >= n) = prod_{m<n} q(m): E[tau] = sum_n G(n) and P(tau odd) = sum_n (-1)^(n+1) G(n). The first terms
are summed one by one. The rest, up to 1/delta terms and more, falls into blocks [a, a + L) of a fixed ratio; psi = -log
q is there a line up to a deviation that concavity bounds by the slopes of the neighbouring blocks, so that

    sum_{k<L} G(a + k) = G(a) sum_k exp(-k Psi / L) (1 + (psi(a+L) - psi(a)) (L^2 - 1) / (12 L)) (1 +- third order),

Psi the sum of psi over the block. What is used of the model: f is nondecreasing and concave, hence q0 is, and the loss
E min(delta xi, q0(m)) is nondecreasing and concave in m, whatever the law of xi. With f only nondecreasing the bounds
are of first order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gracile.core.errors import InputError
from gracile.walks.reinforcement import LinearReinforcement
from gracile.walks.staying import EPS, Staying

Array = NDArray[np.float64]

ONE_BY_ONE = (1 << 12, 1 << 15, 1 << 18)
ONE_BY_ONE_UNKNOWN = 1 << 21
BLOCKS = 1 << 17
# exp(-60): what is left out beyond the last block, before its own bound is added.
NEGLIGIBLE = 60.0


@dataclass(frozen=True)
class Sums:
    """E[tau] and P(tau odd), each with a bound on its absolute error."""

    mean: float
    mean_error: float
    odd: float
    odd_error: float


@dataclass(frozen=True)
class Head:
    """What the terms before n = `start` add up to, and G(start).

    Attributes:
        slack: a bound on the relative error of G(start).
    """

    start: int
    mean: float
    mean_error: float
    odd: float
    odd_error: float
    survival: float
    slack: float


def survival(leave: NDArray[Any]) -> NDArray[Any]:
    """G(1), ..., G(len + 1) from the hazards 1 - q(1), ..., 1 - q(len), each to about 2 sqrt(len) roundings."""
    stay = 1 - leave
    size = len(stay)
    side = max(1, math.isqrt(size))
    padded = np.concatenate([stay, np.ones(-size % side, dtype=stay.dtype)]).reshape(-1, side)
    inside = np.multiply.accumulate(padded, axis=1)
    before = np.concatenate([[1.0], np.multiply.accumulate(inside[:-1, -1])])
    return np.concatenate([[1.0], (inside * before[:, None]).ravel()[:size]])


def head(walk: Staying, start: int) -> Head:
    """Sum the terms n < `start` one by one."""
    m = np.arange(1.0, start)
    leave0 = walk.leave0(m)
    lost = walk.lost(m, leave0)
    leave = leave0 + lost
    # A hazard near 1 leaves its rounding to 1 - hazard.
    error = walk.error(leave0, lost) + EPS
    gone = np.flatnonzero(leave >= 1)
    spill = 0.0
    if len(gone):
        # q is cut at 0 here: exactly so, unless the computed sign could be wrong.
        spill = max(0.0, float(error[gone[0]] - (leave[gone[0]] - 1)))
        leave[gone[0] :] = 1.0
    stay = 1 - leave
    g = survival(leave)
    relative = np.where(stay > 0, error / np.maximum(stay, 1e-300), 0.0)
    slack = np.concatenate([[0.0], np.cumsum(relative)]) + 4 * EPS * math.sqrt(start)
    terms, last = g[:-1], g[-1]
    sign = np.where(np.arange(start - 1) % 2 == 0, 1.0, -1.0)
    rounding = 2 * EPS * math.log2(start) * float(terms.sum())
    at_gone = float(g[gone[0]]) * spill if len(gone) else 0.0
    return Head(
        start=start,
        mean=float(terms.sum()),
        mean_error=float(np.sum(terms * np.expm1(np.minimum(slack[:-1], 700.0))))
        + rounding
        + (at_gone / max(walk.leave_at_least(1.0), EPS) if at_gone else 0.0),
        odd=float((terms * sign).sum()),
        odd_error=float(np.sum(terms * error)) + rounding + 4 * EPS * math.sqrt(start) * float(terms.sum()) + at_gone,
        survival=float(last),
        slack=float(slack[-1]),
    )


def sums(walk: Staying, blocks: int = BLOCKS) -> Sums:
    """E[tau] and P(tau odd) with bounds; the caller has made sure that E[tau] is finite.

    Args:
        walk: the model.
        blocks: how many blocks; the bound falls with their square at least.

    Raises:
        InputError: nothing is known of f beyond the terms seen, and they do not suffice.
    """
    first = _head_that_suffices(walk)
    if first.survival * _rest(walk, float(first.start)) > EPS:
        shape = walk.f.shape_beyond(float(first.start), walk.dim)
        if shape == "unknown":
            first = head(walk, ONE_BY_ONE_UNKNOWN)
            if first.survival * _rest(walk, float(first.start)) > 1e-6 * first.mean:
                raise InputError(
                    f"With delta = {walk.delta:g} more terms of E[tau] matter than {first.start}, and nothing "
                    "is known of this reinforcement beyond them.",
                    "Say what is: CustomReinforcement(f, shape='concave') or CustomReinforcement(f, shape='increasing').",
                )
        else:
            return _with_blocks(walk, first, blocks, concave=shape == "concave")
    rest = first.survival * math.exp(first.slack) * _rest(walk, float(first.start))
    half = first.survival * math.exp(first.slack) / 2
    sign = 1.0 if first.start % 2 else -1.0
    return Sums(first.mean + rest / 2, first.mean_error + rest / 2, first.odd + sign * half, first.odd_error + half)


def _head_that_suffices(walk: Staying) -> Head:
    """The shortest head beyond which next to nothing is left, or the longest."""
    for start in ONE_BY_ONE[:-1]:
        first = head(walk, start)
        if first.survival * _rest(walk, float(start)) <= EPS:
            return first
    return head(walk, ONE_BY_ONE[-1])


def _rest(walk: Staying, n: float) -> float:
    """A bound on sum_{k>=n} G(k) / G(n)."""
    least = walk.leave_at_least(n)
    if least > 0:
        return 1 / least
    # 1 - q(m) >= k/m with k = n (1 - q(n)), where m (1 - q(m)) does not fall: so it is for powers p <= 1, the one case
    # without a positive hazard at infinity that comes here. Then G(m) <= G(n) ((n-1)/(m-1))^k by Bernoulli.
    k = n * float(walk.leave(np.array([n]))[0])
    return 1 + (n - 1) / (k - 1) if k > 1 else math.inf


def _last(walk: Staying, start: float) -> float:
    """An n where G(n) < exp(-60) G(start)."""
    n = start
    while True:
        n *= 2
        if n > 1e300:
            raise InputError(
                "E[tau] is finite, but its sum reaches beyond 1e300 terms.",
                "Take delta larger, or a power further below 1.",
            )
        least = walk.leave_at_least(n / 2)
        hazard = least if least > 0 else float(walk.leave(np.array([n]))[0])
        if hazard * n / 2 >= NEGLIGIBLE:
            return n


@dataclass(frozen=True)
class _Blocks:
    """Per block: its start, length, the bracket of Psi, and how psi bends inside."""

    a: Array
    length: Array
    low: Array
    high: Array
    bend: Array  # relative correction of the block's sum
    bend_error: Array
    lost_a: Array
    lost_b: Array
    leave0_a: Array


def _with_blocks(walk: Staying, first: Head, blocks: int, *, concave: bool) -> Sums:
    end = _last(walk, float(first.start))
    edges = _edges(first.start, end, blocks)
    parts = _second_order(walk, edges) if concave else _first_order(walk, edges)
    # Two levels, so that rounding grows with the square root of the number of blocks.
    middle, half = (parts.low + parts.high) / 2, (parts.high - parts.low) / 2
    before, spread = _running(middle), _running(half)
    depth = 4 * math.sqrt(len(middle)) * EPS
    g = first.survival * np.exp(-before[:-1])
    error = spread[:-1] + depth * before[:-1] + first.slack
    per_step = middle / parts.length
    geometric = np.where(middle > 1e-290, np.expm1(-middle) / np.expm1(-np.maximum(per_step, 1e-300)), parts.length)
    value = g * geometric * (1 + parts.bend)
    # Psi's own bracket moves exp(-k Psi / L) by at most its half width.
    wrong = np.expm1(np.minimum(error + half, 50.0) + 8 * EPS) + parts.bend_error * (1 + np.abs(parts.bend))
    final = first.survival * math.exp(min(0.0, spread[-1] + (depth - 1) * before[-1] + first.slack))
    beyond = final * _rest(walk, float(edges[-2]))
    mean = first.mean + float(value.sum()) + beyond / 2
    mean_error = first.mean_error + float((value * wrong).sum()) + beyond / 2 + 2 * EPS * math.log2(len(value)) * mean
    odd, odd_error = _odd(walk, first, parts, g)
    return Sums(mean, mean_error, odd, odd_error)


def _odd(walk: Staying, first: Head, parts: _Blocks, g: Array) -> tuple[float, float]:
    """P(tau odd): the alternating rest sum_k (-1)^k G(M + k) = G(M) (1/2 + 1/2 sum_k (-1)^k P(tau = M + k) / G(M)).

    The last sum is at most half of the first term and the total variation of P(tau = n), which is decreasing where q
    does not fall.
    """
    now = np.array([float(first.start)])
    leave = float(walk.leave(now)[0])
    if not walk.noise.grows:
        low, high = 0.5, 0.5 + leave / 2
    else:
        relative = g / first.survival
        most = np.minimum(parts.leave0_a + parts.lost_b, 1.0)
        variation = float(parts.leave0_a[0]) + float(np.sum(relative * (parts.lost_b - parts.lost_a)))
        variation += float(np.sum(relative * parts.length * most**2))
        swing = min((leave + variation) / 4, 0.5)
        low, high = 0.5 - swing, 0.5 + swing
    sign = 1.0 if first.start % 2 else -1.0
    middle, half = (low + high) / 2, (high - low) / 2
    return (
        first.odd + sign * first.survival * middle,
        first.odd_error + first.survival * (half + math.expm1(first.slack)),
    )


def _running(values: Array) -> Array:
    """0 and the running sums of `values`, in two levels."""
    size = len(values)
    side = max(1, math.isqrt(size))
    padded = np.concatenate([values, np.zeros(-size % side)]).reshape(-1, side)
    inside = np.cumsum(padded, axis=1)
    before = np.concatenate([[0.0], np.cumsum(inside[:-1, -1])])
    return np.concatenate([[0.0], (inside + before[:, None]).ravel()[:size]])


def _edges(start: int, end: float, blocks: int) -> Array:
    """Whole numbers: one ghost before `start`, `start`, ..., one ghost beyond the end; lengths odd below 2^53."""
    ratio = max(math.log(end / start) / blocks, 2.5 / start)
    count = math.ceil(math.log(end / start) / ratio)
    power = np.arange(-1, count + 2)
    # Even places are even, odd places odd: odd lengths have a whole number in their middle. Above 2^53 every double is
    # even.
    return 2 * np.floor(start * np.exp(ratio * power) / 2) + np.where(power % 2 == 0, 0.0, 1.0)


def _gap(slope: Array, length: Array) -> Array:
    """How far a convex or concave function can leave its chord inside each inner block, from the chords beside it."""
    before, after = np.abs(slope[1:-1] - slope[:-2]), np.abs(slope[2:] - slope[1:-1])
    total = before + after
    return length * np.where(total > 0, before * after / np.maximum(total, 1e-300), 0.0)


def _second_order(walk: Staying, edges: Array) -> _Blocks:
    """Brackets for concave f. Every quantity is its chord plus or minus a gap, and the chord's part is done exactly."""
    leave0 = walk.leave0(edges)
    lost = walk.lost(edges, leave0)
    psi0 = -np.log1p(-leave0)  # convex, decreasing
    ratio = leave0 / (1 - leave0)  # 1/q0 - 1: convex, decreasing
    widths = np.diff(edges)
    a, b, length = edges[1:-2], edges[2:-1], widths[1:-1]
    gap0 = _gap(np.diff(psi0) / widths, length)
    gap_ratio = _gap(np.diff(ratio) / widths, length)
    gap_lost = _gap(np.diff(lost) / widths, length)
    ia, ib = slice(1, -2), slice(2, -1)

    # The share r = lost / q0 of a step that is lost; psi = psi0 - log(1 - r).
    share = lost * (1 + ratio)
    below = lost[ib] * gap_ratio
    above = np.abs(lost[ib] - lost[ia]) * np.abs(ratio[ib] - ratio[ia]) / 4 + gap_lost * (1 + ratio[ia])
    share_a, share_b = share[ia], share[ib]
    centre = share_a + (share_b - share_a) * (length - 1) / (2 * length)
    phi = lambda r: -np.log1p(-np.clip(r, 0.0, 1 - EPS))
    phi_low = length * phi(centre - below)
    phi_a, phi_b = phi(share_a + above), phi(share_b + above)
    phi_high = length * phi_a + (phi_b - phi_a) * (length - 1) / 2

    low0, high0 = _psi0_sums(walk, a, b, psi0[ia], psi0[ib], length)
    psi_a, psi_b = psi0[ia] + phi(share_a), psi0[ib] + phi(share_b)
    most = np.minimum(np.maximum(share_a, share_b) + above, 1 - EPS)
    deviation = gap0 + (below + above) / (1 - most) + (share_b - share_a) ** 2 / (8 * (1 - most) ** 2)
    rounding = length * walk.error(leave0[ia], lost[ib]) / np.maximum(1 - leave0[ia] - lost[ib], EPS)
    low, high = low0 + phi_low - rounding, high0 + phi_high + rounding
    slope = np.abs(psi_b - psi_a)
    bend = (psi_b - psi_a) * (length - 1 / length) / 12
    bend_error = np.abs(bend) * np.expm1(np.minimum(high, 50.0)) + (slope * length / 8) ** 2 * np.exp(
        np.minimum(slope * length, 50.0)
    )
    bend_error = bend_error + np.expm1(np.minimum(2 * length * deviation, 50.0)) + 16 * EPS
    # A single step has no inside.
    alone = length == 1
    return _Blocks(
        a,
        length,
        low,
        high,
        np.where(alone, 0.0, bend),
        np.where(alone, 0.0, bend_error),
        lost[ia],
        lost[ib],
        leave0[ia],
    )


def _psi0_sums(walk: Staying, a: Array, b: Array, psi_a: Array, psi_b: Array, length: Array) -> tuple[Array, Array]:
    """Brackets of sum_{a<=m<b} -log q0(m)."""
    if isinstance(walk.f, LinearReinforcement) and walk.f.c > 0:
        alpha, beta = 1 / walk.f.c, 2 * walk.dim / walk.f.c
        exact = _log_gamma_ratio(a, alpha, beta) - _log_gamma_ratio(b, alpha, beta)
        # Neighbouring differences of one smooth function: its rounding does not add up, so one block's share is enough
        # here.
        error = 4 * EPS * (psi_a * length)
        return exact - error, exact + error
    # Convex and decreasing: above its value in the middle, below its chord.
    middle = length * -np.log1p(-walk.leave0((a + b - 1) / 2))
    return middle * (1 - 8 * EPS), (length * psi_a + (psi_b - psi_a) * (length - 1) / 2) * (1 + 8 * EPS)


def _log_gamma_ratio(x: Array, p: float, q: float) -> Array:
    """Compute log Gamma(x + p) - log Gamma(x + q) for large x, by Stirling's series of both, without cancellation."""
    y, z = x + p, x + q
    tail = lambda t: (1 - (1 / 30 - 1 / (105 * t) / t) / t / t) / (12 * t)
    return (p - q) * np.log(x) + (y - 0.5) * np.log1p(p / x) - (z - 0.5) * np.log1p(q / x) - (p - q) + tail(y) - tail(z)


def _first_order(walk: Staying, edges: Array) -> _Blocks:
    """Brackets for f that is only known not to decrease."""
    if walk.noise.grows:
        raise InputError(
            "A growing noise needs a reinforcement known to be concave, or nothing bounds the hazard.",
            "Give LinearReinforcement, ConstantReinforcement, PowerReinforcement, or CustomReinforcement(f, shape='concave').",
        )
    leave0 = walk.leave0(edges)
    lost = walk.lost(edges, leave0)
    leave = np.minimum(leave0 + lost, 1 - EPS)
    if (np.diff(leave) > 1e-12).any():
        raise InputError("The reinforcement was declared nondecreasing and decreases.", "Declare shape='unknown'.")
    psi = -np.log1p(-leave)
    ia, ib = slice(1, -2), slice(2, -1)
    length = np.diff(edges)[1:-1]
    rounding = length * walk.error(leave0[ia], lost[ib]) / (1 - leave[ia])
    low, high = length * psi[ib] - rounding, length * psi[ia] + rounding
    swing = np.where(length == 1, 0.0, np.abs(psi[ia] - psi[ib]) * length / 8)
    return _Blocks(
        edges[1:-2], length, low, high, -swing, swing * (1 + swing) + 16 * EPS, lost[ia], lost[ib], leave0[ia]
    )
