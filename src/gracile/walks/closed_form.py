"""E[tau] and P(tau odd) in closed form, in interval arithmetic, for f(m) = C m and for constant f.

For f(m) = C m and a constant loss D, with z = 1 - D, beta = 2d/C and alpha = (1 - 2dD) / (C z),

    P(tau >= n) = z^(n-1) (1 + alpha)_(n-1) / (1 + beta)_(n-1),
    E[tau]      = 2F1(1 + alpha, 1; 1 + beta; z),          P(tau odd) = 2F1(1 + alpha, 1; 1 + beta; -z).

With s = beta - alpha - 1 the connection formula at z = 1 (DLMF 15.8.4) has one elementary term,

    E[tau] = (beta / s) 2F1(1 + alpha, 1; 1 - s; D) + D^s z^(-beta) Gamma(1 + beta) Gamma(-s) / Gamma(1 + alpha),

whose two terms cancel where s is near a whole number: in d = 1 to about log10(1/D) digits. Intervals carry that loss by
themselves, and the precision is doubled until it no longer matters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
from mpmath import libmp
from mpmath.ctx_iv import MPIntervalContext

# Results are narrower than this, relatively; a double has 2^-53.
WIDTH_BITS = 70


def linear(dim: int, c: float, loss: Any, half: bool = False) -> tuple[Any, Any]:
    """E[tau] and P(tau odd) for f(m) = C m, C > 0, as mpmath intervals.

    Args:
        dim: d.
        c: C.
        loss: D with 0 <= D < q0(1); a float or an mpmath number, taken exactly.
        half: the loss is half of that (the mean of a uniform law).

    Returns:
        Two intervals; the first is [inf, inf] where the mean is infinite.
    """

    def parts(iv: Any) -> tuple[Any, Any, Any, Any]:
        d = iv.mpf(loss) / (2 if half else 1)
        z = 1 - d
        return d, z, iv.mpf(2 * dim) / iv.mpf(c), iv.mpf(2 * dim - 1) / (iv.mpf(c) * z)  # w = beta - alpha

    # The cancellation near a whole s costs about as many bits as 1/D has.
    lost_bits = max(0, -_exponent(loss)) if loss else 0
    mean = _narrow(lambda iv: _linear_mean(iv, *parts(iv), dim=dim, c=c), 110 + lost_bits)
    return mean, _narrow(lambda iv: _alternating(iv, *parts(iv)[1:]), 90)


def _linear_mean(iv: Any, d: Any, z: Any, beta: Any, w: Any, *, dim: int, c: float) -> Any:
    s, alpha = w - 1, beta - w
    if d == 0:
        return beta / s if c < 2 * dim - 1 else iv.mpf("inf")
    if d.a >= 0.5:
        return _series(iv, 1 + alpha, 1 + beta, z)
    if _holds_integer(s):
        # Either the precision is too small or s is a whole number. E[tau] falls as D grows, so neighbours enclose it.
        shift = iv.mpf(2) ** (-iv.prec // 3)
        around = []
        for sign in (-1, 1):
            near = d * (1 + sign * shift)
            near_w = w * z / (1 - near)
            if _holds_integer(near_w - 1):
                return iv.mpf(["-inf", "inf"])
            around.append(_connected(iv, near, 1 - near, beta, near_w))
        return iv.mpf([around[1].a, around[0].b])
    return _connected(iv, d, z, beta, w)


def _connected(iv: Any, d: Any, z: Any, beta: Any, w: Any) -> Any:
    s, alpha = w - 1, beta - w
    near = beta / s * _series(iv, 1 + alpha, 1 - s, d)
    return near + d**s * z ** (-beta) * iv.gamma(1 + beta) * iv.gamma(-s) / iv.gamma(1 + alpha)


def _alternating(iv: Any, z: Any, beta: Any, w: Any) -> Any:
    # Pfaff's transformation: all terms positive, at least halved from one to the next.
    return _series(iv, w, 1 + beta, z / (1 + z)) / (1 + z)


def _series(iv: Any, a: Any, c: Any, x: Any) -> Any:
    """2F1(a, 1; c; x) for 0 <= x <= 0.6 with the remainder enclosed."""
    term, total, k = iv.mpf(1), iv.mpf(1), 0
    small = iv.mpf(2) ** -iv.prec
    while True:
        # From here on |terms| shrink by `ratio` at least: (a + k)/(c + k) moves monotonically towards 1.
        if (c + k).a > 0 and (a + k).a > 0:
            ratio = x * iv.mpf(max(((a + k) / (c + k)).b, 1))
            if ratio.b < 0.9 and abs(term).b < small.a:
                rest = abs(term) * ratio / (1 - ratio)
                return total + iv.mpf([-rest.b, rest.b])
        term = term * (a + k) / (c + k) * x
        total += term
        k += 1


def constant(dim: int, c: float, loss: Any, half: bool = False) -> tuple[Any, Any]:
    """E[tau] and P(tau odd) for f(m) = c as mpmath intervals: tau is geometric with q = q0 - loss."""

    def leave(iv: Any) -> Any:
        return (2 * dim - 1) / (2 * dim + iv.mpf(c)) + iv.mpf(loss) / (2 if half else 1)

    bits = 90 + (max(0, -_exponent(loss)) if loss else 0)
    return _narrow(lambda iv: 1 / leave(iv), bits), _narrow(lambda iv: 1 / (2 - leave(iv)), bits)


def _exponent(x: Any) -> int:
    """The whole part of log2 x, to one unit, for a double or an mpmath number of any size."""
    return int(mpmath.mp.mag(x))


def _holds_integer(s: Any) -> bool:
    """Whether an interval holds a whole number, where Gamma(-s) and 1/s or the series have a pole."""
    low, high = s._mpi_
    return libmp.mpf_le(libmp.mpf_ceil(low), high)


def _narrow(value: Callable[[Any], Any], bits: int) -> Any:
    """Evaluate at `bits`, and at twice as many again, until the interval is narrow."""
    iv = MPIntervalContext()
    iv.prec = bits
    while True:
        x = value(iv)
        if x.a == iv.inf or _is_narrow(x):
            return x
        iv.prec *= 2
        if iv.prec > 1 << 16:
            raise ArithmeticError("the closed form did not settle at 65536 bits")


def _is_narrow(x: Any) -> bool:
    low, high = x._mpi_
    if not (libmp.mpf_gt(low, libmp.fzero) and libmp.mpf_lt(high, libmp.finf)):
        return False
    width = libmp.mpf_sub(high, low, 53, "u")
    return libmp.mpf_le(width, libmp.mpf_shift(low, -WIDTH_BITS))
