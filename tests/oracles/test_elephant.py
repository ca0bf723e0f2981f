"""The elephant walk with stops against its master equation: the whole law of a path's steps up and down, summed by definition."""

from __future__ import annotations

import math
from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest

from gracile.core.errors import InputError
from gracile.walks import ElephantWalk

WALKS = [
    ElephantWalk(0.5, 0.25),
    ElephantWalk(0.5, 0.25, eps=0.125),
    ElephantWalk(0.0, 0.75, eps=0.25),
    ElephantWalk(1.0, 0.0, eps=0.5),
    ElephantWalk(0.25, 0.75),
]


def master(walk: ElephantWalk, steps: int) -> list[dict[tuple[int, int], Fraction]]:
    """P(steps up, steps down) after each step, as exact fractions: what is remembered depends on nothing else."""
    p, q, eps = (Fraction(one) for one in (walk.p, walk.q, walk.eps))
    laws = [{(1, 0): Fraction(1, 2), (0, 1): Fraction(1, 2)}]
    for t in range(1, steps):
        after: dict[tuple[int, int], Fraction] = defaultdict(Fraction)
        for (up, down), chance in laws[-1].items():
            rising = (1 - eps) * (p * up + q * down) / t + eps / 2
            falling = (1 - eps) * (p * down + q * up) / t + eps / 2
            for place, share in (
                ((up + 1, down), rising),
                ((up, down + 1), falling),
                ((up, down), 1 - rising - falling),
            ):
                after[place] += chance * share
        laws.append(after)
    return laws


@pytest.mark.parametrize("walk", WALKS, ids=str)
def test_moments_are_those_of_the_master_equation(walk: ElephantWalk):
    found = walk.moments(12)
    for t, law in enumerate(master(walk, 12)):
        assert sum(law.values()) == 1
        square = sum(chance * (up - down) ** 2 for (up, down), chance in law.items())
        moved = sum(chance * (up + down) for (up, down), chance in law.items())
        assert found.mean_square[t] == pytest.approx(float(square), rel=1e-13)
        assert found.moved[t] == pytest.approx(float(moved), rel=1e-13)


def test_simulation_has_the_law_of_the_master_equation():
    walk, walkers = WALKS[1], 40_000
    ends = walk.simulate(8, walkers, seed=1)
    law: dict[int, float] = defaultdict(float)
    for (up, down), chance in master(walk, 8)[-1].items():
        law[up - down] += float(chance)
    for place, chance in law.items():
        assert abs(np.mean(ends == place) - chance) < 4 * math.sqrt(chance * (1 - chance) / walkers)


@pytest.mark.parametrize(
    ("walk", "exponent", "logarithms"),
    [
        (ElephantWalk(0.3, 0.3), 0.6, 0),  # stops in 40 % of the steps: sub-diffusive
        (ElephantWalk(0.6, 0.2), 0.8, 1),  # 2 (p - q) = p + q
        (ElephantWalk(0.8, 0.1), 1.4, 0),
        (ElephantWalk(0.5, 0.5), 1, 0),  # the simple random walk
        (ElephantWalk(0.25, 0.25, eps=0.5), 1, 0),
        (ElephantWalk(1.0, 0.0, eps=0.5), 1, 1),
        (ElephantWalk(0.9, 0.05, eps=0.05), 1.615, 0),
    ],
    ids=str,
)
def test_growth_is_where_the_moments_go(walk: ElephantWalk, exponent: float, logarithms: int):
    growth, n = walk.growth(), 100_000
    assert (growth.exponent, growth.log_exponent) == (pytest.approx(exponent), logarithms)
    square = walk.moments(n).mean_square
    if logarithms:  # What is left is of the order 1 / log n; the slope on log n is not.
        scaled = square[[n // 100 - 1, n - 1]] / np.array([n // 100, n], dtype=float) ** growth.exponent
        assert (scaled[1] - scaled[0]) / math.log(100) == pytest.approx(growth.coefficient, rel=1e-3)
    else:
        assert square[-1] / n**growth.exponent == pytest.approx(growth.coefficient, rel=0.01)


def test_a_few_simple_steps_make_it_diffusive_and_it_spreads_more_than_by_them():
    assert ElephantWalk(0.45, 0.45).diffusivity() == 0
    for eps in (1e-1, 1e-2, 1e-3):
        walk = ElephantWalk(0.45, 0.45, eps)
        assert walk.diffusivity() == pytest.approx(eps / (1 - 0.9 * (1 - eps)))
        assert walk.diffusivity() > 5 * eps
    # Where it stops no more often than it forgets, the diffusivity stays, however rarely it forgets: it is residual.
    residual = [ElephantWalk((1 - eps) / 2, (1 - eps) / 2, eps).diffusivity() for eps in (1e-2, 1e-4, 1e-6)]
    np.testing.assert_allclose(residual, 0.5, rtol=0.01)


@pytest.mark.parametrize(("p", "q", "eps"), [(0.7, 0.4, 0.0), (-0.1, 0.5, 0.0), (0.5, 0.5, 1.5), (math.nan, 0.0, 0.0)])
def test_what_are_no_probabilities_is_refused(p: float, q: float, eps: float):
    with pytest.raises(InputError, match="no probabilities"):
        ElephantWalk(p, q, eps)
    with pytest.raises(InputError, match="steps"):
        ElephantWalk(0.5, 0.3).moments(0)
