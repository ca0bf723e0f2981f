"""Theorems 3.1 and 3.2 as properties over random admissible settings: what they say must never happen does not."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gracile.one_layer import (
    angle,
    check_conditions,
    critical_lam,
    gradient_ratio,
    largest_beta,
    largest_curvature,
    limit_identity,
    random_starts,
    rvscgd,
    rvsm,
    sparse_teacher,
    verify,
)
from gracile.one_layer.conditions import norm_bound

THEOREMS = pytest.mark.parametrize("theorem", ["3.1", "3.2"])
PENALTIES = ["l1", "l0", "transformed_l1"]


@st.composite
def admissible(draw: st.DrawFn) -> dict:
    d = draw(st.integers(2, 30))
    return {
        "k": draw(st.integers(2, 15)),
        "d": d,
        "nonzero": draw(st.integers(1, d)),
        "delta": draw(st.floats(0.05, 1.5)),
        "share": draw(st.floats(0.05, 1.0)),
        "ratio": draw(st.floats(0.05, 0.95)),
        "penalty": draw(st.sampled_from(PENALTIES)),
        "seed": draw(st.integers(0, 999)),
        "sharp": draw(st.booleans()),
    }


def run(theorem: str, given: dict):
    """A study of 8 starts at a share of the largest beta, by the theorem's step or the sharper one."""
    k, d = given["k"], given["d"]
    beta = given["share"] * largest_beta(theorem, given["delta"], k)
    lam = critical_lam(given["penalty"], beta, d, given["ratio"])
    setting = check_conditions(theorem, k=k, d=d, lam=lam, beta=beta, lr=1e-9, theta=0.0, delta=given["delta"])
    lr = setting.sufficient_lr if given["sharp"] else setting.largest_lr
    w_star, w = sparse_teacher(d, given["nonzero"], given["seed"]), random_starts(8, d, given["seed"])
    found = verify(
        theorem,
        w,
        w_star,
        k,
        lam=lam,
        beta=beta,
        lr=lr,
        steps=50,
        delta=given["delta"],
        penalty=given["penalty"],
        records=51,
    )
    here = angle(w, w_star) <= math.pi - given["delta"]
    return found, here, {"lam": lam, "beta": beta, "lr": lr, "w_star": w_star}


@THEOREMS
@given(given=admissible())
@settings(max_examples=40, deadline=None)
def test_what_the_theorems_say_never_rises_does_not(theorem: str, given: dict):
    found, here, setting = run(theorem, given)
    seen, delta = found.seen, given["delta"]
    # From any start at all: L_beta of the ReLU, and that of the step function with the potential of its coarse gradient.
    assert float((seen.lagrangian_rise if theorem == "3.1" else seen.potential_rise).max()) <= 1e-13
    if theorem == "3.1":
        assert float(gradient_ratio(seen, given["k"], beta=setting["beta"], lr=setting["lr"]).max()) <= 1
    assume(bool(here.any()))
    # From the starts admitted, down to the cone of angle delta, which is never left again.
    assert float(seen.lagrangian_rise_from[here].max()) < delta
    assert float(seen.angle_rise_from[here].max()) < delta
    inside = seen.theta[:, here] < delta
    assert torch.equal(inside.cummax(0).values, inside)


@THEOREMS
def test_rises_are_counted_at_every_step_and_from_the_angle_where_they_start(theorem: str):
    # By the full record, from starts inside the cone, where angles do rise.
    w_star = sparse_teacher(12, 4)
    method = rvsm if theorem == "3.1" else rvscgd
    settings = {"lam": 0.02, "beta": 0.1, "lr": 0.2, "steps": 60}
    w = w_star + 0.05 * random_starts(20, 12)
    full, coarse = (method(w, w_star, 3, **settings, records=records) for records in (61, 2))
    rises = full.theta.diff(dim=0)
    torch.testing.assert_close(full.angle_rise, rises.amax(0))
    torch.testing.assert_close(full.angle_rise_from, torch.where(rises > 1e-12, full.theta[:-1], 0.0).amax(0))
    torch.testing.assert_close(full.lagrangian_rise, full.lagrangian.diff(dim=0).amax(0))
    torch.testing.assert_close(full.least_gradient, full.gradient.amin(0))
    assert float(full.angle_rise.max()) > 1e-4
    for name in ("angle_rise", "angle_rise_from", "lagrangian_rise", "lagrangian_rise_from", "least_gradient", "w"):
        assert torch.equal(getattr(full, name), getattr(coarse, name))


@given(given=admissible())
@settings(max_examples=20, deadline=None)
def test_up_to_twice_the_sufficient_step_the_relu_lagrangian_still_never_rises(given: dict):
    k, d = given["k"], given["d"]
    beta = given["share"] * largest_beta("3.1", given["delta"], k)
    seen = rvsm(
        random_starts(8, d, given["seed"]), sparse_teacher(d, given["nonzero"], given["seed"]), k, beta=beta,
        lam=critical_lam(given["penalty"], beta, d, given["ratio"]), lr=1.999 / (largest_curvature(k) + beta), steps=50,
        penalty=given["penalty"],
    )  # fmt: skip
    assert float(seen.lagrangian_rise.max()) <= 1e-13


def test_beyond_twice_the_sufficient_step_the_relu_lagrangian_does_rise():
    # Along w the curvature is h and, where u = 0, the coupling adds beta: the bound is sharp.
    k, beta = 4, 0.5
    w_star = torch.tensor([1.0, 0.0], dtype=torch.float64)
    limit = 2 / (largest_curvature(k) + beta)
    for factor, rises in ((0.99, False), (1.02, True)):
        seen = rvsm(0.4 * w_star, w_star, k, lam=10.0, beta=beta, lr=factor * limit, steps=50)
        assert bool((seen.lagrangian_rise > 1e-12).any()) is rises


def test_inside_the_cone_the_angle_and_the_step_functions_lagrangian_do_rise():
    # The theorems' text excepts nothing; their proofs use sin(theta) >= sin(delta). A start at w* itself must move away.
    w_star = sparse_teacher(20, 5)
    for method in (rvsm, rvscgd):
        seen = method(w_star + 1e-6, w_star, 5, lam=0.002, beta=0.03, lr=0.1, steps=300)
        assert float(seen.angle_rise) > 1e-7
        assert bool(seen.lagrangian_rise > 1e-7) is (method is rvscgd)


@pytest.mark.parametrize("k", [2, 3, 10])
@pytest.mark.parametrize("beta", [0.01, 0.3])
def test_the_norm_never_falls_below_its_bound_and_the_bound_is_met(k: int, beta: float):
    # Opposite to w*, and with u = 0, the norm is drawn to the bound itself.
    w_star = sparse_teacher(6, 6, 1)
    starts = torch.cat([-w_star[None], random_starts(30, 6, 1)])
    lowest = torch.full((31,), 1.0, dtype=torch.float64)
    lr = 1 / (largest_curvature(k) + beta)
    w = starts
    for _ in range(40):
        w = rvsm(w, w_star, k, lam=10.0, beta=beta, lr=0.5 * lr, steps=1, records=2).w
        lowest = torch.minimum(lowest, w.norm(dim=1))
    assert float(lowest.min()) >= norm_bound(beta, k) - 1e-12
    assert float(lowest[0]) == pytest.approx(norm_bound(beta, k), rel=1e-6)


@THEOREMS
@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_limit_satisfies_its_identity_and_its_bounds(theorem: str, penalty: str):
    k, d, delta = 5, 20, 0.7
    w_star, w = sparse_teacher(d, 6, 3), random_starts(40, d, 3)
    beta = largest_beta(theorem, delta, k)
    lam = critical_lam(penalty, beta, d, 0.5)
    lr = check_conditions(theorem, k=k, d=d, lam=lam, beta=beta, lr=1e-9, theta=0.0).sufficient_lr
    found = verify(theorem, w, w_star, k, lam=lam, beta=beta, lr=lr, steps=600, delta=delta, penalty=penalty)
    limit = found.limit
    assert float(found.seen.gradient[-1].max()) < 1e-10
    assert float(limit.residual.max()) < 1e-9
    assert float(limit.theta.max()) < delta
    assert float(limit.constant.min()) > 0
    if theorem == "3.1":
        assert bool((limit.constant < k * math.pi / (math.pi - limit.theta)).all())
    else:
        assert bool((limit.distance <= limit.bound).all())
    # An expansion: w* and w - u agree in sign where u moved, so that no entry of w* is smaller than C w there.
    u = found.seen.u
    expanded = (w_star - limit.constant[:, None] * found.seen.w) * (found.seen.w - u)
    assert float(expanded.min()) >= -1e-9


def test_off_the_limit_the_identity_fails():
    w_star = sparse_teacher(20, 5)
    limit = limit_identity("3.1", random_starts(10, 20), w_star, 5, lam=1e-3, beta=0.02)
    assert float(limit.residual.min()) > 0.1
