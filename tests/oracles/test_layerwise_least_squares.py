"""Closed answers, plain twins and another solver for the least squares of `gracile.layerwise`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gracile.core.errors import DataError, InputError
from gracile.core.estimators import temperature
from gracile.layerwise import Statistics, norm_ball_least_squares
from gracile.layerwise.least_squares import admm
from gracile.layerwise.ridge import generalised, ridge
from gracile.layerwise.statistics import Dual, gather, weighted
from tests.peers import peer


def problem(samples: int, n: int, q: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    y = torch.randn(samples, n, generator=random, dtype=torch.float64).relu()
    return y, torch.randn(samples, q, generator=random, dtype=torch.float64)


def stream(y: torch.Tensor, t: torch.Tensor, rows: int = 7):
    return lambda: ((*pair, None) for pair in zip(y.split(rows), t.split(rows), strict=True))


@pytest.mark.parametrize(("samples", "n"), [(50, 12), (12, 50), (20, 20)])
def test_ridge_solves_the_normal_equations(samples, n):
    y, t = problem(samples, n)
    weights = ridge(stream(y, t), 0.3).weights
    torch.testing.assert_close(y.T @ (y @ weights) + 0.3 * weights, y.T @ t, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("samples", "n", "kind"), [(30, 12, Statistics), (12, 30, Dual), (13, 12, Statistics), (12, 12, Dual)]
)
def test_the_smaller_system_is_solved(samples, n, kind):
    assert isinstance(gather(stream(*problem(samples, n))), kind)


@pytest.mark.parametrize(("samples", "n"), [(40, 9), (9, 40)])
def test_leave_one_out_equals_leaving_one_out(samples, n):
    y, t = problem(samples, n)
    found = ridge(stream(y, t), "auto")
    residuals = []
    for left in range(samples):
        rest = torch.arange(samples) != left
        a = y[rest]
        weights = torch.linalg.solve(a.T @ a + found.lam * torch.eye(n, dtype=torch.float64), a.T @ t[rest])
        residuals.append(t[left] - y[left] @ weights)
    assert found.loo == pytest.approx(float(torch.stack(residuals).square().mean()), rel=1e-6)


def test_leave_one_out_finds_the_strength_that_noise_asks_for():
    random = torch.Generator().manual_seed(0)
    y = torch.randn(60, 50, generator=random, dtype=torch.float64)
    truth = torch.randn(50, 1, generator=random, dtype=torch.float64)
    noise = torch.randn(60, 1, generator=random, dtype=torch.float64)
    # With prior and noise of unit variance the best strength is about noise^2.
    assert 0.02 < ridge(stream(y, y @ truth + 0.5 * noise), "auto").lam < 3
    assert 2 < ridge(stream(y, y @ truth + 5 * noise), "auto").lam < 300


@pytest.mark.parametrize(("samples", "n"), [(50, 12), (12, 50)])
@pytest.mark.parametrize("eps", [1e-3, 0.3, 0.9])
def test_norm_ball_meets_the_optimality_conditions(samples, n, eps):
    """On the sphere, with Y'(T - Y O) = lam O and lam > 0: the Karush-Kuhn-Tucker conditions, which suffice here."""
    y, t = problem(samples, n)
    found = norm_ball_least_squares(y, t, eps)
    assert found.lam > 0
    assert eps * (1 - 1e-9) <= found.weights.norm() <= eps * (1 + 1e-14)
    torch.testing.assert_close(y.T @ (t - y @ found.weights), found.lam * found.weights, rtol=1e-6, atol=1e-8)
    assert found.cost == pytest.approx(float((t - y @ found.weights).square().sum()), rel=1e-10)


@pytest.mark.parametrize(("samples", "n"), [(50, 12), (12, 50), (50, 50)])
def test_a_wide_ball_gives_least_squares_of_least_norm(samples, n):
    y, t = problem(samples, n)
    found = norm_ball_least_squares(y, t, 1e6)
    assert found.lam == 0
    torch.testing.assert_close(found.weights, torch.linalg.pinv(y) @ t, rtol=1e-6, atol=1e-7)


def test_a_singular_gram_matrix_in_the_ball():
    y, t = problem(40, 5)
    found = norm_ball_least_squares(torch.cat([y, y], 1), t, 1e6)
    torch.testing.assert_close(found.weights, torch.linalg.pinv(torch.cat([y, y], 1)) @ t, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("samples", "n"), [(40, 6), (6, 40)])
@pytest.mark.parametrize("eps", [0.2, 0.7, 50.0])
def test_norm_ball_equals_a_convex_solver(samples, n, eps):
    cvxpy = peer("cvxpy")
    y, t = (tensor.numpy() for tensor in problem(samples, n))
    o = cvxpy.Variable((n, t.shape[1]))
    objective = cvxpy.Minimize(cvxpy.sum_squares(t - y @ o))
    cost = cvxpy.Problem(objective, [cvxpy.norm(o, "fro") <= eps]).solve(solver="CLARABEL")
    assert norm_ball_least_squares(y, t, eps).cost == pytest.approx(cost, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("eps", [0.2, 0.7])
@pytest.mark.parametrize(("samples", "n"), [(60, 10), (10, 20)])
def test_admm_with_a_good_step_reaches_the_exact_solution(samples, n, eps):
    y, t = problem(samples, n)
    exact = norm_ball_least_squares(y, t, eps)
    found = norm_ball_least_squares(y, t, eps, method="admm", mu=1 / exact.lam, steps=300)
    torch.testing.assert_close(found.weights, exact.weights, rtol=1e-4, atol=1e-6)


def test_admm_chooses_a_usable_step_itself():
    y, t = problem(60, 10)
    exact = norm_ball_least_squares(y, t, 0.5)
    assert norm_ball_least_squares(y, t, 0.5, method="admm").cost <= exact.cost * 1.001


def test_admm_stays_in_the_ball_whatever_its_step():
    """With mu = 1e5 the iterate O leaves the ball for all of 100 iterations; what is returned must not."""
    y, t = problem(60, 10)
    for mu in (1e-5, 1.0, 1e5):
        assert norm_ball_least_squares(y, t, 0.3, method="admm", mu=mu).weights.norm() <= 0.3 * (1 + 1e-12)


def test_admm_equals_its_formula():
    y, t = problem(30, 6)
    sums = Statistics(6, 3)
    sums.add(y, t)
    mu, eps = 0.2, 0.4
    z = dual = np.zeros((6, 3))
    a, b = (y.T @ y).numpy(), (y.T @ t).numpy()
    for _ in range(11):
        o = np.linalg.solve(a + np.eye(6) / mu, b + (z + dual) / mu)
        z = (o - dual) * min(1, eps / np.linalg.norm(o - dual))
        dual = dual + z - o
    np.testing.assert_allclose(admm(sums, eps, mu=mu, steps=11).weights.numpy(), z, rtol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**20), samples=st.integers(1, 30), n=st.integers(1, 30), exponent=st.floats(-6, 6),
    repeated=st.booleans(),
)  # fmt: skip
def test_norm_ball_is_feasible_and_no_worse_than_feasible_guesses(seed, samples, n, exponent, repeated):
    y, t = problem(samples, n, 2, seed)
    y = torch.cat([y, y], 1) if repeated else y
    eps = 10.0**exponent
    found = norm_ball_least_squares(y, t, eps)
    assert found.weights.norm() <= eps * (1 + 1e-12)
    random = torch.Generator().manual_seed(seed + 1)
    for _ in range(5):
        guess = torch.randn(y.shape[1], 2, generator=random, dtype=torch.float64)
        guess *= eps / guess.norm()
        near = found.weights + 0.01 * guess
        near *= min(1.0, eps / float(near.norm()))
        for other in (guess, near):
            assert found.cost <= float((t - y @ other).square().sum()) * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize(("samples", "n"), [(50, 12), (12, 50)])
@pytest.mark.parametrize("lam", [0.3, "auto"])
def test_weights_are_copies(samples, n, lam):
    """In the solution and in the leave-one-out error, which of a sample of weight 3 leaves one of three copies out."""
    y, t = problem(samples, n)
    w = torch.randint(1, 4, (samples,), generator=torch.Generator().manual_seed(1))
    copies = stream(y.repeat_interleave(w, 0), t.repeat_interleave(w, 0))
    found = ridge(lambda: iter([weighted(y, t, w.double())]), lam)
    expected = ridge(copies, lam)
    torch.testing.assert_close(found.weights, expected.weights, rtol=1e-8, atol=1e-9)
    assert found.lam == pytest.approx(expected.lam)
    assert found.loo == pytest.approx(expected.loo)


def test_generalised_cross_validation_equals_its_formula():
    y, t = problem(40, 8)
    t = t + y @ torch.ones(8, 3, dtype=torch.float64)  # Of noise alone the strongest candidate would be the best.
    sums = gather(stream(y, t))
    weights, lam, error = generalised(sums)
    hat = lambda s: y @ torch.linalg.solve(y.T @ y + s * torch.eye(8), y.T)
    plain = lambda s: float(40 * (t - hat(s) @ t).square().sum() / (40 - torch.trace(hat(s))) ** 2)
    assert error == pytest.approx(plain(lam))
    torch.testing.assert_close(y @ weights, hat(lam) @ t)
    assert all(error <= plain(lam * factor) * (1 + 1e-9) for factor in (0.2, 0.5, 2.0, 5.0))


def test_statistics_add_up_over_workers():
    y, t = problem(50, 700)
    whole, left, right = (Statistics(700, 3) for _ in range(3))
    whole.add(y, t)
    left.add(y[:20], t[:20])
    right.add(y[20:], t[20:])
    both = left + right
    torch.testing.assert_close(both.gram, y.T @ y)
    torch.testing.assert_close(both.cross, whole.cross)
    assert (both.count, both.energy) == (50, pytest.approx(whole.energy))
    # Reading the Gram matrix must not spoil adding to it afterwards.
    both.add(y, t)
    torch.testing.assert_close(both.gram, 2 * (y.T @ y))


def test_float32_features_are_summed_in_float64():
    """10000 ones of 1e4 each: a float32 sum of their squares would stall near 1e12 with steps of 65536."""
    y = torch.full((10000, 1), 1e4) + torch.tensor([0.0, 1.0] * 5000)[:, None]
    sums = Statistics(1, 1)
    for part in y.split(100):
        sums.add(part, torch.zeros(100, 1))
    assert float(sums.gram) == pytest.approx(float(y.double().square().sum()), rel=1e-7)


def test_cost_from_the_sums_is_the_cost():
    y, t = problem(40, 8)
    sums = gather(stream(y, t))
    weights = torch.ones(8, 3, dtype=torch.float64)
    assert sums.cost(weights) == pytest.approx(float((t - y @ weights).square().sum()))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.ones(3, 2), torch.ones(4, 1), 1.0), DataError, "3 samples and T has 4"),
        ((torch.ones(3, 2), torch.ones(3, 1), 0.0), InputError, "not above 0"),
        ((torch.ones(3, 2), torch.ones(3, 1), math.nan), InputError, "not above 0"),
        ((torch.full((3, 2), math.nan), torch.ones(3, 1), 1.0), DataError, "Y contains NaN"),
        ((torch.ones(3), torch.ones(3, 1), 1.0), DataError, "matrix"),
    ],
)
def test_unusable_problems_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        norm_ball_least_squares(*arguments)


def test_an_unknown_method_is_refused():
    with pytest.raises(InputError, match="no method 'sgd'"):
        norm_ball_least_squares(torch.ones(3, 2), torch.ones(3, 1), 1.0, method="sgd")


def test_rounding_does_not_grow_with_the_samples_added_at_once():
    features, targets = torch.rand(8192, 40) + 1, torch.rand(8192, 2)
    at_once, in_pieces = Statistics(40, 2), Statistics(40, 2)
    at_once.add(features, targets)
    for first in range(0, 8192, 1024):
        in_pieces.add(features[first : first + 1024], targets[first : first + 1024])
    assert torch.equal(at_once.gram, in_pieces.gram)
    assert torch.equal(at_once.cross, in_pieces.cross)


def test_probabilities_are_no_surer_than_the_samples_allow():
    """Where all left-out samples are right their likelihood has no maximum; one more that is wrong gives it one."""
    index = np.arange(120) % 3
    hot = np.eye(3)[index]
    sure = lambda found: 1 / (1 + 2 * np.exp(-1 / found))
    assert sure(temperature(hot, index)) == pytest.approx(120 / 121, abs=1e-7)
    assert sure(temperature(hot, index, np.full(120, 3.0))) == pytest.approx(360 / 361, abs=1e-7)
    assert sure(temperature(hot, index, np.full(120, 1e-9))) == pytest.approx(120 / 121, abs=1e-7)
