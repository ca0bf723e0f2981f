"""The one-layer room: its iterations against plain twins, its conditions, its command and recipes."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from gracile import cli
from gracile.core.errors import InputError, NonFiniteError
from gracile.core.power_law import exponent
from gracile.one_layer import (
    angle,
    binary_risk,
    check_conditions,
    coarse_gradient,
    coarse_slope,
    critical_lam,
    gaussian_patches,
    largest_beta,
    least_delta,
    population_gradient,
    population_risk,
    random_starts,
    rvscgd,
    rvsm,
    sample_coarse_gradient,
    sample_deviation,
    sample_gradient,
    sample_risk,
    sparse_teacher,
    verify,
)
from gracile.one_layer.measures import share_error, statements
from gracile.penalties import elementwise
from gracile.recipes import load, run, schema

K, D = 4, 8
SETTINGS = {"lam": 0.01, "beta": 0.05, "lr": 0.3}


def start() -> tuple[torch.Tensor, torch.Tensor]:
    return random_starts(3, D, 2), sparse_teacher(D, 3, 2)


def plain(w, gradient, penalty: str, steps: int, normalise: bool) -> torch.Tensor:
    """Ten lines: the algorithm as it stands in the paper."""
    w, member = w.clone(), elementwise(penalty)
    for _ in range(steps):
        u = member.prox(w, SETTINGS["lam"] / SETTINGS["beta"])
        w = w - SETTINGS["lr"] * gradient(w) - SETTINGS["lr"] * SETTINGS["beta"] * (w - u)
        if normalise:
            w = w / w.norm(dim=1, keepdim=True)
    return w


@pytest.mark.parametrize("penalty", ["l1", "l0", "transformed_l1", "mcp"])
@pytest.mark.parametrize("steps", [1, 7, 40])
def test_iterations_equal_their_plain_twins(penalty: str, steps: int):
    w, w_star = start()
    relu = rvsm(w, w_star, K, **SETTINGS, steps=steps, penalty=penalty)
    torch.testing.assert_close(relu.w, plain(w, lambda at: population_gradient(at, w_star, K), penalty, steps, False))
    step = rvscgd(2 * w, w_star, K, **SETTINGS, steps=steps, penalty=penalty)
    torch.testing.assert_close(step.w, plain(w, lambda at: coarse_gradient(at, w_star, K), penalty, steps, True))


def test_iterations_on_data_equal_their_plain_twins():
    w, w_star = start()
    x = gaussian_patches(60, K, D)
    relu = rvsm(w, w_star, K, **SETTINGS, steps=10, data=x)
    torch.testing.assert_close(relu.w, plain(w, lambda at: sample_gradient(at, w_star, x), "l1", 10, False))
    torch.testing.assert_close(relu.risk[-1], sample_risk(relu.w, w_star, x))
    step = rvscgd(w, w_star, K, **SETTINGS, steps=10, data=x)
    torch.testing.assert_close(step.w, plain(w, lambda at: sample_coarse_gradient(at, w_star, x), "l1", 10, True))
    assert step.potential_rise.isnan().all()


@pytest.mark.parametrize("method", [rvsm, rvscgd])
@pytest.mark.parametrize("penalty", ["l1", "l0"])
def test_what_is_recorded_is_what_it_is_called(method, penalty: str):
    w, w_star = start()
    seen = method(w, w_star, K, **SETTINGS, steps=30, penalty=penalty, records=4)
    assert seen.steps.tolist() == [0, 10, 20, 30]
    assert seen.lagrangian.shape == (4, 3)
    u = elementwise(penalty).prox(seen.w, SETTINGS["lam"] / SETTINGS["beta"])
    torch.testing.assert_close(seen.u, u)
    risk = population_risk(seen.w, w_star, K) if method is rvsm else binary_risk(seen.w, w_star, K)
    torch.testing.assert_close(seen.risk[-1], risk)
    value = torch.stack([elementwise(penalty).value(row) for row in u])
    lagrangian = risk + SETTINGS["lam"] * value + SETTINGS["beta"] / 2 * (seen.w - u).square().sum(1)
    torch.testing.assert_close(seen.lagrangian[-1], lagrangian)
    torch.testing.assert_close(seen.theta[-1], angle(seen.w, w_star))
    torch.testing.assert_close(seen.distance[-1], (seen.w - w_star).norm(dim=1))
    torch.testing.assert_close(seen.gap[-1], (seen.w - u).norm(dim=1))
    torch.testing.assert_close(seen.sparsity[-1], (u == 0).double().mean(1))
    alive, wanted = u != 0, w_star != 0
    torch.testing.assert_close(seen.support[-1], (alive & wanted).sum(1) / (alive | wanted).sum(1).double())


def test_the_gradient_is_the_lagrangians():
    w, w_star = start()
    at = w.clone().requires_grad_()
    u = elementwise("l1").prox(w, 0.2)
    total = population_risk(at, w_star, K).sum() + 0.05 / 2 * (at - u).square().sum()
    (expected,) = torch.autograd.grad(total, at)
    seen = rvsm(w, w_star, K, **SETTINGS, steps=1)
    torch.testing.assert_close(seen.gradient[0], expected.norm(dim=1))


def test_starts_do_not_know_each_other_and_one_needs_no_batch():
    # 4000 starts of d = 50 take two chunks.
    w_star, w = sparse_teacher(50, 5), random_starts(4000, 50)
    together = rvsm(w, w_star, 10, **SETTINGS, steps=3)
    single = rvsm(w[3999], w_star, 10, **SETTINGS, steps=3)
    torch.testing.assert_close(together.w[3999], single.w[0], rtol=0, atol=1e-15)
    torch.testing.assert_close(together.lagrangian[:, 3999], single.lagrangian[:, 0])


def test_float32_follows_float64():
    w, w_star = start()
    exact, rough = (rvsm(w.to(t), w_star.to(t), K, **SETTINGS, steps=100) for t in (torch.float64, torch.float32))
    assert rough.w.dtype == torch.float32
    torch.testing.assert_close(rough.w.double(), exact.w, rtol=0, atol=1e-5)


def test_the_limit_on_data_nears_the_exact_one_like_one_over_the_root_of_n():
    w_star, w = sparse_teacher(10, 3), random_starts(3, 10)
    points = sample_deviation("3.1", w, w_star, 3, [200, 800, 3200], lam=0.02, beta=0.1, lr=0.6, steps=60)
    assert -0.75 < exponent(points) < -0.25
    assert points[-1][1] < 0.02


# Conditions.


def conditions(theorem: str = "3.1", **changes):
    setting = {"k": 5, "d": 25, "lam": 1e-3, "beta": 0.02, "lr": 0.01, "theta": 1.5}
    return check_conditions(theorem, **{**setting, **changes})


@pytest.mark.parametrize(("theorem", "changes", "violated"), [
    ("3.1", {}, []),
    ("3.1", {"lr": 0.5}, ["(i) step"]),
    ("3.1", {"theta": 3.1}, ["(ii) start"]),
    ("3.1", {"k": 1}, ["(i) step", "(iii) patches"]),
    ("3.1", {"lam": 0.004}, ["(iii) penalty"]),
    ("3.1", {"delta": 0.3}, ["(iii) coupling"]),
    ("3.1", {"beta": 0.2}, ["(ii) start", "(iii) coupling"]),
    ("3.1", {"norm": 1.5}, ["(proof) norm"]),
    ("3.2", {}, []),
    ("3.2", {"lr": 0.5}, ["(iii) step"]),
    ("3.2", {"theta": 3.141}, ["(i) start"]),
    ("3.2", {"lam": 0.3}, ["(ii) penalty"]),
    ("3.2", {"beta": 1.0}, ["(i) start", "(ii) coupling"]),
    ("3.2", {"norm": 2.0}, ["(iterates) norm"]),
])  # fmt: skip
def test_a_violated_hypothesis_is_named(theorem: str, changes: dict, violated: list[str]):
    found = conditions(theorem, **changes)
    assert found.violated == violated
    assert found.met is not bool(violated)
    if violated:
        with pytest.raises(InputError, match=re.escape(violated[0]) + ".*admits beta up to"):
            found.require()
    else:
        found.require()
    assert str(found).count("VIOLATED") == len(violated)


@pytest.mark.parametrize("theorem", ["3.1", "3.2"])
def test_what_is_called_largest_is_admitted_and_no_more(theorem: str):
    for theta in (0.3, 1.5, 2.6):
        beta = conditions(theorem, theta=theta).largest_beta
        first = conditions(theorem, theta=theta, beta=beta, lam=0.0)
        best = {"theta": theta, "beta": beta, "lam": first.largest_lam * (1 - 1e-9)}
        lr = conditions(theorem, **best).largest_lr
        assert conditions(theorem, **best, lr=lr).met
        assert not conditions(theorem, **best, lr=1.01 * lr).met
        assert not conditions(theorem, **{**best, "lam": first.largest_lam}, lr=0.5 * lr).met
        assert not conditions(theorem, **{**best, "beta": 1.01 * beta, "lam": 0.0}, lr=0.5 * lr).met


def test_the_least_delta_inverts_the_coupling():
    for theorem in ("3.1", "3.2"):
        for delta in (0.01, 0.4, 1.5):
            assert least_delta(theorem, largest_beta(theorem, delta, 7), 7) == pytest.approx(delta, rel=1e-9)
    assert math.isnan(least_delta("3.1", 1.0, 7))
    assert math.isnan(least_delta("3.2", 1.01 * coarse_slope(7), 7))


def test_a_study_of_an_inadmissible_setting_admits_no_start():
    w_star, w = sparse_teacher(D, 3), random_starts(20, D)
    found = verify("3.1", w, w_star, K, lam=0.0, beta=5.0, steps=5)
    assert not found.admitted.any()
    assert found.exact == 0.0
    assert not found.conditions.met


@pytest.mark.parametrize(("build", "message"), [
    (lambda w, s: rvsm(w, s, K, lam=-1.0, beta=1.0, lr=0.1, steps=1), "lam must be"),
    (lambda w, s: rvsm(w, s, K, lam=0.0, beta=0.0, lr=0.1, steps=1), "beta must be"),
    (lambda w, s: rvsm(w, s, K, lam=0.0, beta=1.0, lr=math.inf, steps=1), "lr must be"),
    (lambda w, s: rvsm(w, s, K, **SETTINGS, steps=0), "steps=0 must be at least 1"),
    (lambda w, s: rvsm(w, s, K, **SETTINGS, steps=1, records=1), "records=1 must be"),
    (lambda w, s: rvsm(w, 2 * s, K, **SETTINGS, steps=1), "teacher of norm 1"),
    (lambda w, s: rvsm(0 * w, s, K, **SETTINGS, steps=1), "start is zero"),
    (lambda w, s: rvscgd(0 * w, s, K, **SETTINGS, steps=1), "start is zero"),
    (lambda w, s: rvsm(w[None], s, K, **SETTINGS, steps=1), "not \\(starts, d\\)"),
    (lambda w, s: rvsm(w, s, K, **SETTINGS, steps=1, data=gaussian_patches(3, K + 1, D)), "are not \\(n, 4, 8\\)"),
    (lambda w, s: rvsm(w, s, K, **SETTINGS, steps=1, penalty="top_k"), "is a constraint"),
    (lambda w, s: rvsm(w, s, K, **SETTINGS, steps=1, penalty="group_l0"), "acts on groups"),
    (lambda w, s: critical_lam("n_m", 0.1, D, 0.5), "is a constraint"),
    (lambda w, s: largest_beta("3.2", 2.0, K), "not in \\(0, 1.571\\]"),
    (lambda w, s: conditions("3.3"), "no theorem '3.3'"),
    (lambda w, s: conditions(theta=4.0), "out of range"),
    (lambda w, s: conditions(delta=4.0), "not between 0 and pi"),
])  # fmt: skip
def test_what_cannot_be_run_is_refused(build, message: str):
    with pytest.raises(InputError, match=message):
        build(*start())


def test_a_step_that_diverges_is_an_error_and_not_a_result():
    w, w_star = start()
    with pytest.raises(NonFiniteError, match="Lower lr"):
        rvsm(w, w_star, K, lam=0.0, beta=1.0, lr=1e200, steps=5)


# Command, pictures, recipes.


def test_the_command_says_what_holds_and_draws_it(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["one-layer", "--dim", "12", "--patches", "4", "--nonzero", "3", "--starts", "30", "--steps", "60"]
    assert cli.main([*arguments, "--samples", "200"]) == 0
    said = capsys.readouterr().out
    assert said.count(" met") == 6
    assert "support recovered" in said
    assert "on 200 inputs" in said
    assert (tmp_path / "runs/one-layer-1/trajectories.svg").stat().st_size > 10_000
    assert cli.main([*arguments, "--theorem", "3.2", "--beta", "9", "--lam", "0.1", "--out", "here"]) == 0
    assert "VIOLATED" in capsys.readouterr().out
    assert cli.main([*arguments, "--lr", "3", "--require"]) == 2
    assert "does not cover this setting ((i) step" in capsys.readouterr().err


def test_the_exponent_is_that_of_a_power():
    assert exponent([(1.0, 1.0), (2.0, 4.0), (4.0, 16.0)]) == pytest.approx(2.0)


@pytest.mark.parametrize("theorem", ["3.1", "3.2"])
def test_the_recipe_meets_its_criteria_at_smoke_size(theorem: str, tmp_path: Path):
    finished = run(schema.resized(load(f"theorem-{theorem}"), "smoke"), tmp_path / "out")
    assert len(finished.verdicts) >= 8
    assert all(met for _, met in finished.verdicts)
    assert {"trajectories", "probabilities", "powers"} == set(finished.outcome.plots)
    for path in finished.outcome.plots.values():
        assert (tmp_path / "out" / path).stat().st_size > 5_000
    assert bool(finished.outcome.notes) is (theorem == "3.2")


@pytest.mark.parametrize("theorem", ["3.1", "3.2"])
def test_statements_are_the_worst_of_the_admitted_starts(theorem):
    delta, beta = 0.5, largest_beta(theorem, 0.5, K)
    lam = critical_lam("l1", beta, D, 0.5)
    found = verify(
        theorem, random_starts(40, D, 0), sparse_teacher(D, 3, 0), K, lam=lam, beta=beta, steps=60, delta=delta
    )
    numbers = statements(found, K, delta=delta, beta=beta)
    here = found.admitted
    assert numbers["angle_over_delta"] == float(found.limit.theta[here].max()) / delta
    assert numbers["concluded"] == float(found.concluded[here].double().mean())
    assert numbers["constant"] == float(found.limit.constant[here].min())
    bounded = {"3.1": {"gradient_ratio", "constant_over_bound"}, "3.2": {"distance_over_bound"}}
    assert {name for name in numbers if "ratio" in name or "bound" in name} == bounded[theorem]
    assert numbers["z"] == abs(float(here.double().mean()) - found.exact) / share_error(found.exact, 40)


def test_the_error_of_a_share_is_binomial_and_never_nothing():
    assert share_error(0.5, 100) == pytest.approx(0.05)
    assert share_error(1.0, 100) > 0
