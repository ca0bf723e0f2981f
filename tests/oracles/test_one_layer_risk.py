"""The one-layer network's closed forms against autograd, finite differences and Monte Carlo."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gracile.core.errors import InputError
from gracile.one_layer import (
    angle,
    binary_gradient,
    binary_risk,
    coarse_gradient,
    coarse_slope,
    critical_points,
    far_probability,
    gaussian_patches,
    largest_curvature,
    population_curvature,
    population_gradient,
    population_risk,
    random_starts,
    sample_binary_risk,
    sample_coarse_gradient,
    sample_gradient,
    sample_risk,
    sparse_teacher,
)

PATCHES = st.integers(1, 12)
SEEDS = st.integers(0, 999)


def filters(seed: int, n: int = 6, d: int = 5, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    w, w_star = (
        torch.randn(n, d, dtype=torch.float64, generator=random),
        torch.randn(d, dtype=torch.float64, generator=random),
    )
    return scale * w, w_star


def published_risk(w: torch.Tensor, w_star: torch.Tensor, k: int) -> torch.Tensor:
    """Eq. 3.2, letter by letter."""
    norm, star = w.norm(dim=-1), w_star.norm()
    theta = torch.arccos(w @ w_star / (norm * star))
    g = norm * star * (theta.sin() + (math.pi - theta) * theta.cos()) / (2 * math.pi)
    b = (k * k - k) / (2 * math.pi)
    return ((b + k / 2) * (norm**2 + star**2) - 2 * k * g - 2 * b * norm * star) / k**2


@given(seed=SEEDS, k=PATCHES)
@settings(max_examples=40, deadline=None)
def test_the_risk_is_the_published_one(seed: int, k: int):
    w, w_star = filters(seed)
    torch.testing.assert_close(population_risk(w, w_star, k), published_risk(w, w_star, k), rtol=1e-12, atol=1e-13)


@given(seed=SEEDS, k=PATCHES)
@settings(max_examples=40, deadline=None)
def test_the_gradient_is_that_of_autograd(seed: int, k: int):
    w, w_star = filters(seed)
    w.requires_grad_()
    (expected,) = torch.autograd.grad(published_risk(w, w_star, k).sum(), w)
    torch.testing.assert_close(population_gradient(w.detach(), w_star, k), expected, rtol=1e-10, atol=1e-11)


@given(seed=SEEDS, k=PATCHES)
@settings(max_examples=25, deadline=None)
def test_the_curvature_is_the_hessians(seed: int, k: int):
    w, w_star = filters(seed, n=1)
    hessian = torch.autograd.functional.hessian(lambda at: published_risk(at[None], w_star, k)[0], w[0])
    found = population_curvature(w, w_star, k)
    # Three directions: along w, towards w*, and the others, of which there are d - 2.
    expected = torch.cat([found.radial, found.towards, *[found.across] * 3]).sort().values
    torch.testing.assert_close(torch.linalg.eigvalsh(hessian), expected, rtol=1e-8, atol=1e-9)
    assert float(expected[-1]) <= largest_curvature(k) + 1e-12 <= 1 + 1e-12


def test_the_risk_keeps_its_digits_next_to_the_teacher():
    # Eq. 3.2 subtracts numbers of size 1 there: at a distance of 1e-9 nothing of it is left.
    w_star = sparse_teacher(20, 4)
    step = random_starts(1, 20)
    near = w_star + 1e-9 * step
    curvature = population_curvature(w_star[None], w_star, 5)
    along = (step @ w_star).square()
    expected = (curvature.radial * along + curvature.across * (1 - along)) / 2 * 1e-18
    torch.testing.assert_close(population_risk(near, w_star, 5), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("k", [2, 5, 30])
def test_the_critical_points_are_critical_and_of_their_kind(k: int):
    w_star = sparse_teacher(6, 6)
    points = critical_points(w_star, k)
    assert points.saddle is not None
    assert points.maximum is not None
    assert population_risk(points.minimum, w_star, k) == 0
    assert population_gradient(w_star, w_star, k).norm() < 1e-15
    assert population_gradient(points.saddle, w_star, k).norm() < 1e-15
    # Degenerate: without curvature but for the radial one; a saddle: lower on one side of it.
    curvature = population_curvature(points.saddle, w_star, k)
    assert abs(float(curvature.across)) < 1e-12
    assert float(curvature.radial) > 0
    around = random_starts(200, 6)
    assert (population_risk(points.saddle + 1e-2 * around, w_star, k) < population_risk(points.saddle, w_star, k)).any()
    assert (population_risk(1e-4 * around, w_star, k) < population_risk(points.maximum, w_star, k)).all()


def test_with_one_patch_the_teacher_is_the_only_differentiable_critical_point():
    w_star = sparse_teacher(4, 4)
    points = critical_points(w_star, 1)
    assert points.maximum is None
    assert points.saddle is None
    # Opposite to w* nothing pulls but the norm: no saddle on the way down to 0.
    assert (population_gradient(-0.3 * w_star, w_star, 1) @ w_star) < 0


@pytest.mark.parametrize("theta", [0.0, 1e-9, 1e-3, 1.0, math.pi / 2, 3.0, math.pi - 1e-9, math.pi])
def test_the_angle_keeps_its_digits_at_both_ends(theta: float):
    w_star = torch.tensor([2.0, 0.0], dtype=torch.float64)
    # Near pi the vector is built from what is left to pi, which a double holds better.
    rest = math.pi - theta
    place = [-math.cos(rest), math.sin(rest)] if theta > 3 else [math.cos(theta), math.sin(theta)]
    w = torch.tensor(place, dtype=torch.float64)
    assert float(angle(3 * w, w_star)) == pytest.approx(theta, abs=1e-15, rel=1e-9)


# Monte Carlo: a fixed seed, and 5 standard errors.

N, K, D = 40_000, 4, 6


@pytest.fixture(scope="module")
def drawn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        random_starts(3, D, 1) * torch.tensor([[0.5], [1.0], [2.0]]),
        sparse_teacher(D, 3, 1),
        gaussian_patches(N, K, D, 1),
    )


@pytest.mark.parametrize(("exact", "sampled"), [
    (population_risk, sample_risk), (binary_risk, sample_binary_risk),
    (population_gradient, sample_gradient), (coarse_gradient, sample_coarse_gradient),
])  # fmt: skip
def test_expectations_are_what_monte_carlo_finds(drawn, exact, sampled):
    w, w_star, x = drawn
    parts = torch.stack([sampled(w, w_star, part) for part in x.split(N // 40)])
    error = parts.std(0) / math.sqrt(len(parts))
    expected = exact(w, w_star, K)
    torch.testing.assert_close(parts.mean(0), sampled(w, w_star, x))
    assert ((parts.mean(0) - expected).abs() <= 5 * error).all()


def test_sample_gradients_are_those_of_autograd(drawn):
    w, w_star, x = drawn
    w, x = w.clone().requires_grad_(), x[:50]
    loss = ((torch.einsum("sd,nkd->snk", w, x).relu().mean(2) - (x @ w_star).relu().mean(1)) ** 2).mean(1)
    torch.testing.assert_close(sample_risk(w.detach(), w_star, x), loss.detach())
    (expected,) = torch.autograd.grad(loss.sum(), w)
    torch.testing.assert_close(sample_gradient(w.detach(), w_star, x), expected)


def test_sample_coarse_gradient_is_its_definition(drawn):
    w, w_star, x = drawn
    x = x[:20]
    for row, found in zip(w, sample_coarse_gradient(w, w_star, x), strict=True):
        total = torch.zeros(D, dtype=torch.float64)
        for z in x:
            s, s_star = (z @ row > 0).double(), (z @ w_star > 0).double()
            total += z.T @ s * (s.sum() - s_star.sum())
        torch.testing.assert_close(found, total / len(x))


@given(seed=SEEDS, k=PATCHES)
@settings(max_examples=25, deadline=None)
def test_the_coarse_gradient_is_the_published_one_and_descends(seed: int, k: int):
    w, w_star = filters(seed)
    unit, star = w / w.norm(dim=1, keepdim=True), w_star / w_star.norm()
    half = (angle(w, w_star) / 2).cos()[:, None]
    both = (unit + star) / (unit + star).norm(dim=1, keepdim=True)
    torch.testing.assert_close(coarse_gradient(w, w_star, k), k / math.sqrt(2 * math.pi) * (unit - half * both))
    torch.testing.assert_close(coarse_gradient(unit, star, k), coarse_slope(k) * (unit - star))
    # Lemma 2: it goes down where the risk does.
    assert ((coarse_gradient(w, w_star, k) * binary_gradient(w, w_star, k)).sum(1) > 0).all()


@given(seed=SEEDS, k=PATCHES)
@settings(max_examples=25, deadline=None)
def test_the_true_gradient_of_the_binary_risk_is_that_of_autograd(seed: int, k: int):
    w, w_star = filters(seed)
    w.requires_grad_()
    risk = k / math.pi * torch.arccos(w @ w_star / (w.norm(dim=1) * w_star.norm()))
    (expected,) = torch.autograd.grad(risk.sum(), w)
    torch.testing.assert_close(binary_gradient(w.detach(), w_star, k), expected)
    torch.testing.assert_close(binary_risk(w.detach(), w_star, k), risk.detach())


@pytest.mark.parametrize(("delta", "d"), [(0.5, 2), (1.2, 3), (1.4, 50), (1.7, 5), (3.0, 2)])
def test_the_probability_of_a_far_start_is_that_of_the_sphere(delta: float, d: int):
    theta = angle(random_starts(20_000, d, 7), sparse_teacher(d, d, 7))
    exact = far_probability(delta, d)
    measured = float((theta <= math.pi - delta).double().mean())
    assert abs(measured - exact) <= 4 * math.sqrt(max(exact * (1 - exact), 1e-4) / 20_000)
    if d == 2:
        assert exact == pytest.approx(1 - delta / math.pi)


@pytest.mark.parametrize(("build", "message"), [
    (lambda w: population_risk(w, w[0], 0), "at least one patch"),
    (lambda w: population_risk(w, w[0, :2], 2), "does not end in"),
    (lambda w: population_risk(w, 0 * w[0], 2), "teacher w\\* is zero"),
    (lambda w: population_gradient(0 * w, w[0], 2), "no gradient at w = 0"),
    (lambda w: binary_gradient(w[:1], w[0], 2), "parallel"),
    (lambda w: sparse_teacher(3, 4), "cannot have 4"),
    (lambda w: random_starts(0, 3), "no 0 starts"),
    (lambda w: gaussian_patches(1, 0, 3), "no sample"),
    (lambda w: far_probability(1.0, 1), "no angles"),
])  # fmt: skip
def test_what_has_no_value_is_refused(build, message: str):
    with pytest.raises(InputError, match=message):
        build(torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64))
