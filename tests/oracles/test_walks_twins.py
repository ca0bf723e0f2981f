"""The fast simulations against the walk as it is defined, in law."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gracile.walks import CustomReinforcement, PowerReinforcement, SenileWalk
from gracile.walks.batches import Batches, Runner, Sums
from gracile.walks.visits import TauLaw
from gracile.walks.ways import on_axes, ways

# A right law fails a test at this level once in a thousand seeds; seeds are fixed.
LEVEL = 1e-3


def same_law(a: np.ndarray, b: np.ndarray, cells: int = 24) -> float:
    """The p-value of a chi-square test that two samples of whole numbers have one law."""
    edges = np.unique(np.quantile(np.concatenate([a, b]), np.linspace(0, 1, cells + 1)[1:-1]))
    table = np.array([np.bincount(np.searchsorted(edges, x), minlength=len(edges) + 1) for x in (a, b)])
    return float(stats.chi2_contingency(table[:, table.sum(axis=0) > 0])[1])


@pytest.mark.parametrize(
    ("dim", "noise", "delta"),
    [
        (1, None, 0.1),
        (1, None, 0.0),
        (1, "half-cauchy", 0.05),
        (1, "half-normal-n", 0.05),
        (2, None, 0.05),
        (3, "exponential", 0.1),
    ],
)
def test_edge_by_edge_has_the_law_of_step_by_step(dim: int, noise: str | None, delta: float) -> None:
    walk = SenileWalk(dim, delta=delta, noise=noise)
    plain = walk.simulate(301, 4000, 1, method="steps", records=[301])
    fast = walk.simulate(301, 8000, 2, method="edges", records=[7, 301])
    for axis in range(dim):
        assert same_law(plain.ends[:, axis], fast.ends[:, axis]) > LEVEL


@pytest.mark.parametrize(("dim", "delta"), [(1, 0.2), (1, 0.02), (1, 1e-6), (2, 0.2), (2, 0.01), (3, 0.2), (3, 0.01)])
@pytest.mark.parametrize("steps", [300, 5001])
def test_batches_have_the_law_of_edge_by_edge(dim: int, delta: float, steps: int) -> None:
    walk = SenileWalk(dim, delta=delta)
    plain = walk.simulate(steps, 3000, 3, method="edges", records=[steps])
    fast = walk.simulate(steps, 8000, 4, method="batches", records=[steps // 2, steps])
    assert same_law(np.abs(plain.ends).sum(axis=1), np.abs(fast.ends).sum(axis=1)) > LEVEL
    for axis in range(dim):
        assert same_law(plain.ends[:, axis], fast.ends[:, axis]) > LEVEL
    assert fast.law_error < 1e-4


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("visits", [1, 2, 4])
def test_the_ways_of_few_visits_have_the_law_of_all_sequences(dim: int, visits: int) -> None:
    """Where they lead, the next direction and the even visits together, against every sequence of parities and turns."""
    chances: dict[tuple[int, ...], float] = {}

    def follow(place: tuple[int, ...], direction: int, evens: int, left: int, chance: float) -> None:
        if not left:
            key = (*place, direction, evens)
            chances[key] = chances.get(key, 0.0) + chance
            return
        for odd, share in ((1, 0.7), (0, 0.3)):
            k, sign = direction % dim, 1 if direction < dim else -1
            there = tuple(x + odd * sign * (axis == k) for axis, x in enumerate(place))
            barred = (direction + dim) % (2 * dim) if odd else direction
            for following in set(range(2 * dim)) - {barred}:
                follow(there, following, evens + 1 - odd, left - 1, chance * share / (2 * dim - 1))

    follow((0,) * dim, 0, 0, visits, 1.0)
    size = 60_000
    moved, turned, evens = ways(dim, 0.3).draw(np.random.default_rng(13), visits, size)
    found, counts = np.unique(np.column_stack([moved, turned, evens]), axis=0, return_counts=True)
    seen = dict(zip(map(tuple, found.tolist()), counts.tolist(), strict=True))
    assert set(seen) <= set(chances)
    likely = {key: chance for key, chance in chances.items() if chance * size >= 5}
    rest = 1 - sum(likely.values())
    expected = [size * chance for chance in likely.values()]
    observed = [seen.get(key, 0) for key in likely]
    if rest * size > 5:
        expected, observed = [*expected, size * rest], [*observed, size - sum(observed)]
    expected = np.array(expected) * sum(observed) / sum(expected)
    assert stats.chisquare(observed, expected).pvalue > LEVEL


@pytest.mark.parametrize("dim", [2, 3])
def test_runs_lie_on_axes_as_a_walk_from_axis_to_axis(dim: int) -> None:
    """How often each axis is taken, and which comes next, against the walk itself; 13 runs, then 1 and none beside them."""
    rng, size = np.random.default_rng(14), 40_000
    found, at = on_axes(rng, np.full(size, 13), dim)
    place, arrivals = np.zeros(size, dtype=int), np.zeros((size, dim), dtype=int)
    for _ in range(13):
        place = (place + rng.integers(1, dim, size)) % dim if dim > 2 else 1 - place
        arrivals[np.arange(size), place] += 1
    following = (place + rng.integers(1, dim, size)) % dim if dim > 2 else 1 - place
    assert (found.sum(axis=1) == 13).all()
    code = lambda counts, last: (counts * [100, 10, 1][:dim]).sum(axis=1) * 3 + last
    assert same_law(code(found, at), code(arrivals, following), 60) > LEVEL
    mixed = np.array([0, 1, 2, 5])
    assert (on_axes(rng, mixed, dim)[0].sum(axis=1) == mixed).all()


def test_batches_keep_time_between_records() -> None:
    # Increments between records depend on the visit that straddles them: parity of time and place must agree.
    walk = SenileWalk(1, delta=0.05)
    law = TauLaw(walk.staying, 5001)
    runner = Runner(Batches(law, 5000), 6000, np.random.default_rng(5))
    places = []
    for time in (999, 1000, 1003, 5000):
        places.append(runner.advance(time)[:, 0])
        assert ((places[-1] - time) % 2 == 0).all()
    assert (np.abs(places[1] - places[0]) == 1).all()
    assert (np.abs(places[2] - places[1]) <= 3).all()
    plain = walk.simulate(5000, 3000, 6, method="edges", records=[5000])
    assert same_law(places[-1], plain.ends[:, 0]) > LEVEL


def test_batches_with_long_visits_drawn_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    # A short table makes visits beyond it frequent.
    monkeypatch.setattr("gracile.walks.visits.TABLE", 16)
    walk = SenileWalk(1, delta=0.01)
    fast = walk.simulate(2000, 5000, 7, method="batches", records=[700, 2000])
    monkeypatch.undo()
    plain = walk.simulate(2000, 4000, 8, method="edges", records=[2000])
    assert same_law(plain.ends[:, 0], fast.ends[:, 0]) > LEVEL


@pytest.mark.parametrize("table", [1 << 15, 8])
@pytest.mark.parametrize("noise", [None, "half-cauchy", "half-normal-n"])
def test_tau_drawn_at_once_has_its_law(table: int, noise: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gracile.walks.visits.TABLE", table)
    walk = SenileWalk(1, delta=0.01, noise=noise)
    tau = TauLaw(walk.staying, 10**6).draw(np.random.default_rng(9), 20_000)
    # Kolmogorov-Smirnov for a law on whole numbers: conservative.
    survival = walk.tau_survival(20_000)
    cdf = lambda n: 1 - np.append(survival, 0.0)[np.minimum(n.astype(int), len(survival))]
    values = np.sort(tau)
    empirical = np.searchsorted(values, values, side="right") / len(values)
    assert stats.kstwo.sf(np.max(np.abs(empirical - cdf(values))), len(values)) > LEVEL


def test_tau_has_the_law_of_the_definition() -> None:
    # The plain walk's first visit, every xi drawn, against tau drawn from the annealed law.
    walk = SenileWalk(1, delta=0.2, noise="exponential")
    rng = np.random.default_rng(10)
    m, alive, lasted = np.ones(8000), np.arange(8000), np.zeros(8000)
    while len(alive):
        stay = np.maximum((1 + m[alive]) / (2 + m[alive]) - 0.2 * rng.exponential(1.0, len(alive)), 0)
        out = rng.random(len(alive)) >= stay
        lasted[alive[out]] = m[alive[out]]
        alive = alive[~out]
        m[alive] += 1
    drawn = TauLaw(walk.staying, 10**6).draw(rng, 8000)
    assert stats.ks_2samp(lasted, drawn).pvalue > LEVEL


def test_tau_of_a_callable_beyond_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gracile.walks.visits.TABLE", 4)
    walk = SenileWalk(1, CustomReinforcement(lambda m: m), delta=0.05)
    tau = TauLaw(walk.staying, 10**6).draw(np.random.default_rng(11), 5000)
    assert np.mean(tau >= 30) == pytest.approx(walk.tau_survival(30)[-1], abs=5 * np.sqrt(0.02 / 5000))


def test_tables_of_sums_are_convolutions() -> None:
    law = np.array([0.5, 0.2, 0.2, 0.1])
    sums = Sums(law, 0.0, 3)
    exact = law
    for table in sums.tables:
        p = np.diff(np.concatenate([[0.0], table.cumulative]))
        np.testing.assert_allclose(p, exact[table.first : table.first + len(p)], atol=1e-15)
        assert table.error < 1e-14
        exact = np.convolve(exact, exact)


@pytest.mark.parametrize(
    "walk",
    [
        SenileWalk(1, delta=0.2),
        SenileWalk(1, delta=0.05, noise="half-cauchy"),
        SenileWalk(1, PowerReinforcement(1.0, 0.5)),
        SenileWalk(2),
    ],
    ids=repr,
)
def test_simulation_finds_the_exact_diffusivity(walk: SenileWalk) -> None:
    found = walk.simulate(4000, 4000, 12)
    assert abs(found.nu - walk.diffusivity().nu) < 4 * found.nu_error


def test_slow_growth_has_the_derived_exponent() -> None:
    # f(m) = 3 m in d = 1: E|S_n|^2 ~ n^(1/3) with a constant that has no published value.
    walk = SenileWalk(1, 3.0)
    growth = walk.diffusivity().growth
    assert growth is not None
    found = walk.simulate(10**6, 4000, 13, records=[10**6])
    assert found.mean_square[0] == pytest.approx(growth.coefficient * 1e6**growth.exponent, rel=0.15)
