"""What every law of noise must satisfy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gracile.walks import SenileWalk
from gracile.walks.noise import NOISES, noise

NAMES = sorted(NOISES)
# Those of which finitely many losses say what lies beyond.
ORDERED = [name for name in NAMES if noise(name).ordered]


def test_the_table_is_not_empty() -> None:
    assert len(NAMES) >= 6


@pytest.mark.parametrize("name", NAMES)
@given(log_delta=st.floats(-25.0, 3.0))
@settings(max_examples=25, deadline=None)
def test_the_loss_is_a_concave_share_of_a_probability(name: str, log_delta: float) -> None:
    law = noise(name)
    c = np.linspace(1e-3, 1.0, 400)
    lost = law.lost(c, math.exp(log_delta), log_delta)
    assert (lost >= 0).all()
    assert (lost <= c * (1 + 1e-12)).all()
    slopes = np.diff(lost) / np.diff(c)
    assert (slopes >= -1e-9).all()
    assert (np.diff(slopes) <= 1e-9).all()


@pytest.mark.parametrize("name", NAMES)
def test_samples_lose_what_the_formula_says(name: str) -> None:
    law = noise(name)
    xi = law.sample(np.random.default_rng(1), 200_000, 1.0)
    assert (xi >= law.least).all()
    for delta, c in ((0.1, 0.7), (0.5, 0.3)):
        lost = np.minimum(delta * xi, c)
        exact = float(law.lost(np.array([c]), delta, math.log(delta))[0])
        assert lost.mean() == pytest.approx(exact, abs=5 * lost.std() / math.sqrt(len(xi)) + 1e-12)


@pytest.mark.parametrize("name", ORDERED)
def test_more_noise_leaves_an_edge_sooner(name: str) -> None:
    means = [SenileWalk(2, delta=delta, noise=name).diffusivity().mean_tau for delta in (1e-6, 1e-3, 0.1)]
    assert means[0] > means[1] > means[2] >= 1


@pytest.mark.parametrize("name", [*ORDERED, None])
@pytest.mark.parametrize("dim", [1, 2])
def test_the_bound_is_small(name: str | None, dim: int) -> None:
    found = SenileWalk(dim, delta=1e-9, noise=name).diffusivity()
    assert 0 < found.error_bound < 1e-9 * found.nu
