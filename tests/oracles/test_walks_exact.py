"""Exact diffusivities against the brute series, closed answers and the limits known."""

from __future__ import annotations

import decimal
import math
import time

import mpmath
import numpy as np
import pytest
from scipy import integrate, stats

from gracile.walks import CustomReinforcement, HalfCauchy, LinearReinforcement, Pareto, PowerReinforcement, SenileWalk
from gracile.walks import noise as noises
from gracile.walks.series import sums
from gracile.walks.staying import Staying


def brute(dim: int, delta: float, c: float = 1.0, number=mpmath.mpf) -> tuple[mpmath.mpf, mpmath.mpf, mpmath.mpf]:
    """E[tau], P(tau odd) and nu of model I with f(m) = c m to 30 digits, term by term: the plain twin."""
    with mpmath.workdps(30), decimal.localcontext(prec=30):
        d, c, g, n = number(delta), number(c), number(1), 1
        mean = odd = number(0)
        while g > number(10) ** -22 * d:
            mean += g
            odd = odd + g if n % 2 else odd - g
            g *= (1 + c * n) / (2 * dim + c * n) - d
            n += 1
        mean, odd = mpmath.mpf(str(mean)), mpmath.mpf(str(odd))
        return mean, odd, odd / ((1 - odd / dim) * mean)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize(("delta", "number"), [(0.2, mpmath.mpf), (0.01, mpmath.mpf), (1e-3, decimal.Decimal)])
def test_the_closed_form_is_the_brute_series(dim: int, delta: float, number) -> None:
    mean, odd, nu = brute(dim, delta, number=number)
    found = SenileWalk(dim, delta=delta).diffusivity()
    with mpmath.workdps(30):
        assert abs(found.nu - nu) <= found.error_bound + 1e-19
        assert abs(found.mean_tau - mean) <= found.mean_tau_error + 1e-18
        assert abs(found.p_odd - odd) <= found.p_odd_error + 1e-19
    assert found.error_bound < 1e-15 * found.nu


def test_the_closed_form_is_the_brute_series_at_1e_4() -> None:
    _, _, nu = brute(1, 1e-4, number=decimal.Decimal)
    found = SenileWalk(1, delta=1e-4).diffusivity()
    with mpmath.workdps(30):
        assert abs(found.nu - nu) <= found.error_bound + 1e-19


@pytest.mark.parametrize("c", [0.3, 2.0, 5.0])
def test_linear_reinforcement_is_the_brute_series(c: float) -> None:
    _, _, nu = brute(2, 0.02, c)
    found = SenileWalk(2, c, delta=0.02).diffusivity()
    with mpmath.workdps(30):
        assert abs(found.nu - nu) <= found.error_bound + 1e-19


@pytest.mark.parametrize(("delta", "c", "dim"), [(0.25, 2.0, 2), (0.4, 5 / 3, 1), (0.5, 2.0, 1)])
def test_a_degenerate_connection_formula_is_no_exception(delta: float, c: float, dim: int) -> None:
    # There beta - alpha - 1 is a whole number, where Gamma functions have poles.
    _, _, nu = brute(dim, delta, c)
    found = SenileWalk(dim, c, delta=delta).diffusivity()
    with mpmath.workdps(30):
        assert abs(found.nu - nu) <= found.error_bound + 1e-19


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_tiny_delta_is_exact_and_fast(dim: int) -> None:
    walk = SenileWalk(dim, delta=1e-12)
    start = time.perf_counter()
    found = walk.diffusivity()
    took = time.perf_counter() - start
    with mpmath.workdps(40):
        d = mpmath.mpf(1e-12)
        a = (1 - 2 * dim * d) / (1 - d)
        mean = mpmath.hyp2f1(1 + a, 1, 2 * dim + 1, 1 - d)
        odd = mpmath.hyp2f1(1 + a, 1, 2 * dim + 1, -(1 - d))
        nu = odd / ((1 - odd / dim) * mean)
        assert abs(found.nu - nu) <= found.error_bound + 1e-19
    assert found.error_bound < 1e-10 * found.nu
    # 25 ms where it was measured, asked for 50; a shared machine gets ten times that.
    assert took < 0.5


@pytest.mark.parametrize(
    ("dim", "delta", "nu"),
    [
        (1, 0.2, 1.04225), (1, 0.05, 0.40353), (1, 0.01, 0.22297668), (2, 0.01, 0.59904037), (3, 0.01, 0.73517213),
        (2, 0.0, 0.57348407), (3, 0.0, 0.71413794),
    ],
)  # fmt: skip
def test_known_values(dim: int, delta: float, nu: float) -> None:
    assert SenileWalk(dim, delta=delta).diffusivity().nu == pytest.approx(
        nu, abs=6e-6 if nu > 0.4 and dim == 1 else 6e-9
    )


def test_no_memory_is_the_simple_random_walk() -> None:
    for dim in (1, 2, 5):
        assert SenileWalk(dim, 0.0).diffusivity().nu == pytest.approx(1, abs=1e-15)


def test_the_unperturbed_line_is_sub_diffusive_with_the_known_constant() -> None:
    found = SenileWalk(1).diffusivity()
    assert found.nu == 0
    assert math.isinf(found.mean_tau)
    assert found.p_odd == pytest.approx(2 * (1 - math.log(2)), abs=1e-15)
    assert found.growth is not None
    assert found.growth.coefficient == pytest.approx((1 - math.log(2)) / (2 * math.log(2) - 1), rel=1e-14)
    assert (found.growth.exponent, found.growth.log_exponent) == (1, -1)


def test_a_walk_that_never_stays_is_ballistic_on_the_line() -> None:
    found = SenileWalk(1, delta=0.7).diffusivity()
    assert math.isinf(found.nu)
    assert found.growth is not None
    assert found.growth.exponent == 2
    assert SenileWalk(2, delta=0.7).diffusivity().nu == 2


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("delta", [1e-3, 1e-7, 1e-12, 1e-100])
def test_the_series_agrees_with_the_closed_form_within_its_bound(dim: int, delta: float) -> None:
    from gracile.walks.noise import Fixed

    exact = SenileWalk(dim, delta=delta).diffusivity()
    found = sums(Staying(dim, LinearReinforcement(1.0), delta, math.log(delta), Fixed()))
    assert abs(found.mean - exact.mean_tau) <= found.mean_error + exact.mean_tau_error
    assert abs(found.odd - exact.p_odd) <= found.odd_error + exact.p_odd_error
    assert found.mean_error < 1e-8 * found.mean
    assert found.odd_error < 1e-10


@pytest.mark.parametrize(("shape", "wide"), [("concave", 1e-9), ("increasing", 1e-5)])
def test_a_callable_is_bounded_by_what_is_vouched_for(shape, wide: float) -> None:
    exact = SenileWalk(1, delta=1e-6).diffusivity()
    found = SenileWalk(1, CustomReinforcement(lambda m: m, shape), delta=1e-6).diffusivity()
    assert abs(found.nu - exact.nu) <= found.error_bound + exact.error_bound
    assert found.error_bound < wide * found.nu


def test_a_power_is_the_brute_series() -> None:
    # G(n) is below 1e-40 at the end.
    m = np.arange(1.0, 3000.0)
    g = np.concatenate([[1.0], np.cumprod((1 + m**0.5) / (2 + m**0.5))])
    mean, odd = math.fsum(g), math.fsum(g * np.where(np.arange(len(g)) % 2 == 0, 1, -1))
    found = SenileWalk(1, PowerReinforcement(1.0, 0.5)).diffusivity()
    assert found.nu == pytest.approx(odd / ((1 - odd) * mean), abs=found.error_bound + 1e-14)


LAWS = [
    ("half-cauchy", stats.halfcauchy()), ("pareto:0.5", stats.pareto(0.5)), ("pareto:1", stats.pareto(1.0)),
    ("exponential", stats.expon()), ("uniform", stats.uniform(0, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "law"), LAWS)
@pytest.mark.parametrize("delta", [0.3, 1e-3])
def test_a_named_law_agrees_with_scipy_s_distribution_alone(name: str, law, delta: float) -> None:
    named = SenileWalk(1, delta=delta, noise=name).diffusivity()
    given = SenileWalk(1, delta=delta, noise=law).diffusivity()
    assert abs(named.nu - given.nu) <= named.error_bound + given.error_bound
    assert given.error_bound < 1e-3 * given.nu


@pytest.mark.parametrize("name", ["half-cauchy", "pareto:0.5", "log-pareto", "log-pareto:2", "exponential", "uniform"])
@pytest.mark.parametrize("delta", [0.05, 1e-4])
def test_what_a_law_takes_is_its_integral(name: str, delta: float) -> None:
    law = noises.noise(name)
    tails = {
        "half-cauchy": lambda x: 1 - 2 / math.pi * math.atan(x),
        "pareto:0.5": lambda x: min(1.0, x**-0.5) if x > 0 else 1.0,
        "log-pareto": lambda x: 1 / math.log(x) if x > math.e else 1.0,
        "log-pareto:2": lambda x: 1 / math.log(x) ** 2 if x > math.e else 1.0,
        "exponential": lambda x: math.exp(-x),
        "uniform": lambda x: max(0.0, 1 - x / 2),
    }
    for c in (0.2, 0.9):
        knots = [p for p in (delta, math.e * delta, 2 * delta, 100 * delta) if 0 < p < c]
        exact = integrate.quad(lambda t: tails[name](t / delta), 0, c, points=knots, epsabs=1e-13, limit=500)[0]
        found = float(law.lost(np.array([c]), delta, math.log(delta))[0])
        assert found == pytest.approx(exact, rel=1e-8)


def test_the_growing_law_takes_its_expectation() -> None:
    law = noises.GrowingHalfNormal()
    scale = law.sigma * 7
    assert stats.halfnorm(scale=scale).var() == pytest.approx(49)
    exact = integrate.quad(lambda t: stats.halfnorm(scale=scale).sf(t / 0.01), 0, 0.6, epsabs=1e-13)[0]
    assert float(law.lost(np.array([0.6]), 0.01, math.log(0.01), np.array([7.0]))[0]) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(("law", "slope"), [(HalfCauchy(), 1.0), (Pareto(0.5), 2.0)])
def test_heavy_tails_reach_the_constant_of_the_line(law, slope: float) -> None:
    from gracile.walks import rates

    points = rates.sweep(1, law, [160, 280])
    assert points[-1].gain / points[-1].x == pytest.approx(slope * rates.slow_constant(), rel=0.03)


def test_delta_below_every_float() -> None:
    found = SenileWalk(1, delta=mpmath.mpf(10) ** -330).diffusivity()
    log = 330 * math.log(10)
    # E[tau] = 2 (log(1/delta) - 1) + o(1) from the expansion of the closed form at s = 0.
    assert found.mean_tau == pytest.approx(2 * (log - 1), rel=1e-12)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_first_order_is_the_difference_of_closed_forms(dim: int) -> None:
    from gracile.walks import rates

    gain = SenileWalk(dim, delta=1e-6).diffusivity().nu - SenileWalk(dim).diffusivity().nu
    assert rates.first_order(dim, lambda m, c: np.ones_like(c)) == pytest.approx(gain / 1e-6, rel=1e-4)


@pytest.mark.parametrize("delta", [1e-1, 1e-3, 1e-6])
def test_the_added_walk_alone_spreads_like_delta_squared(delta: float) -> None:
    """Steps of delta up or down: the second moment over the law of all paths, and the diffusivity of the walk that it perturbs."""
    steps = 200
    ups = np.arange(steps + 1)
    places = delta * (2 * ups - steps)
    alone = stats.binom(steps, 0.5).pmf(ups) @ places**2 / steps
    assert alone == pytest.approx(delta**2, rel=1e-12)
    enhanced = SenileWalk(1, delta=delta).diffusivity()
    assert enhanced.nu - enhanced.error_bound > alone / delta
