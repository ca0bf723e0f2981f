"""Laws that change with the count of crossings: closed losses against quadrature and draws, and theorem 2.5's own example."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from gracile.core.errors import InputError
from gracile.walks import SenileWalk
from gracile.walks.noise import noise

LAWS = {
    "gamma-n": lambda n: stats.gamma(1 / n**2, scale=n**2),
    "lognormal-n": lambda n: stats.lognorm(math.sqrt(math.log1p(n**2)), scale=1 / math.sqrt(1 + n**2)),
}


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("n", [1.0, 3.0, 30.0])
def test_the_loss_is_the_integral_of_the_survival_function(name: str, n: float):
    law, delta, c = LAWS[name](n), 0.05, 0.7
    assert law.mean() == pytest.approx(1)
    assert law.var() == pytest.approx(n**2)
    # Logarithmic places: the survival function falls over many decades.
    exact, _ = integrate.quad(lambda s: math.exp(s) * law.sf(math.exp(s) / delta), -60, math.log(c), limit=400)
    assert float(noise(name).lost(np.array([c]), delta, math.log(delta), np.array([n]))[0]) == pytest.approx(
        exact, rel=1e-7
    )


@pytest.mark.parametrize("name", [*LAWS, "two-point-n"])
def test_what_is_drawn_has_the_loss_that_is_computed(name: str):
    law, rng, delta = noise(name), np.random.default_rng(0), 0.2
    drawn = np.minimum(delta * law.sample(rng, 200_000, 2.0), 0.6)
    exact = float(law.lost(np.array([0.6]), delta, math.log(delta), np.array([2.0]))[0])
    assert abs(drawn.mean() - exact) < 4 * drawn.std() / math.sqrt(len(drawn))


def test_a_function_from_n_to_a_law_is_such_a_noise():
    for name, laws in LAWS.items():
        own, named = (SenileWalk(1, delta=0.05, noise=given).tau_survival(60) for given in (laws, name))
        assert own == pytest.approx(named, rel=1e-7)


@pytest.mark.parametrize(("name", "constant"), [("gamma-n", 0.8542), ("two-point-n", 1.2232)])
def test_theorem_2_5_fails_for_its_own_example(name: str, constant: float):
    walk, terms = SenileWalk(1, delta=0.05, noise=name), 1_000_000
    tail = np.arange(1, terms + 1) * walk.tau_survival(terms)
    assert tail[-1] == pytest.approx(constant, abs=1e-4)
    assert tail[-1] == pytest.approx(tail[terms // 10], rel=1e-3)
    found = walk.diffusivity()
    assert found.nu == 0
    assert found.mean_tau == math.inf


def test_of_the_same_mean_and_variance_another_law_is_diffusive():
    survival = SenileWalk(1, delta=0.05, noise="lognormal-n").tau_survival(100_000)
    assert survival[:1000].sum() == pytest.approx(survival.sum(), abs=1e-6)


def test_what_no_finite_number_of_laws_decides_is_refused():
    for given in ("lognormal-n", LAWS["gamma-n"]):
        with pytest.raises(InputError, match="Look at tau_survival"):
            SenileWalk(1, delta=0.05, noise=given).diffusivity()
    with pytest.raises(InputError, match=r"negative with probability 0\.5 at n = 1"):
        SenileWalk(1, delta=0.05, noise=lambda n: stats.norm(0, n))


@pytest.mark.parametrize("method", ["steps", "edges"])
def test_simulations_hold_edges_as_long_as_the_survival_says(method: str):
    walk = SenileWalk(1, delta=0.2, noise="two-point-n")
    seen = walk.simulate(400, 4000, 3, method=method, records=[400])
    other = walk.simulate(400, 4000, 4, method="edges" if method == "steps" else "steps", records=[400])
    assert seen.mean_square[-1] == pytest.approx(other.mean_square[-1], rel=0.12)
