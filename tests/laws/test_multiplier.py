"""What the multiplier of ADMM costs and buys beside relaxed splitting, on the one-layer network [dinh2020, section 3.1.4]."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gracile.one_layer import (
    admm,
    critical_lam,
    largest_beta,
    population_gradient,
    population_risk,
    random_starts,
    rvsm,
)
from gracile.penalties import elementwise

K, D, STEPS = 10, 50, 1500
BETA = largest_beta("3.1", 0.8, K)


def teacher() -> Tensor:
    """Weights that fall by a fifth each, in random places: how many of them are zeros is a choice."""
    order = torch.randperm(D, generator=torch.Generator().manual_seed(0))
    w_star = 0.8 ** torch.arange(D, dtype=torch.float64)[order]
    return w_star / w_star.norm()


def both(penalty: str, *, times: float = 1.0) -> tuple[Tensor, Tensor]:
    """The sparse weights of RVSM, and of ADMM with its lam as many times as large."""
    start, w_star = random_starts(4, D, 0).double(), teacher()
    lam = critical_lam(penalty, BETA, D, 0.5)
    asked = {"beta": BETA, "lr": 0.4, "steps": STEPS, "penalty": penalty}
    without = rvsm(start, w_star, K, lam=lam, records=2, **asked)
    return without.u, admm(start, w_star, K, lam=times * lam, **asked).u


def zeros(u: Tensor) -> Tensor:
    return (u == 0).sum(1)


def test_admm_is_its_three_lines():
    w, w_star, member = random_starts(3, D, 1).double(), teacher(), elementwise("l1")
    found = admm(w, w_star, K, lam=2e-3, beta=0.02, lr=0.3, steps=5)
    z = torch.zeros_like(w)
    for _ in range(5):
        u = member.prox(w + z / 0.02, 2e-3 / 0.02)
        w = w - 0.3 * (population_gradient(w, w_star, K) + z + 0.02 * (w - u))
        z = z + 0.02 * (w - u)
    torch.testing.assert_close(found.w, w, rtol=0, atol=1e-14)
    torch.testing.assert_close(found.z, z, rtol=0, atol=1e-14)


def test_admm_ends_where_the_slope_of_the_risk_is_one_of_the_penalty():
    lam, w_star = critical_lam("l1", BETA, D, 0.5), teacher()
    found = admm(random_starts(4, D, 0).double(), w_star, K, lam=lam, beta=BETA, lr=0.4, steps=STEPS)
    slope, alive = -population_gradient(found.w, w_star, K), found.u != 0
    assert (found.w - found.u).norm(dim=1).max() < 1e-12
    torch.testing.assert_close(slope[alive], lam * found.u[alive].sign(), rtol=0, atol=1e-9)
    assert slope[~alive].abs().max() <= lam * (1 + 1e-9)


@pytest.mark.parametrize("penalty", ["l1", "transformed_l1"])
def test_at_equal_coefficients_the_multiplier_costs_zeros_and_splitting_costs_risk(penalty: str):
    ours, theirs = both(penalty)
    assert zeros(ours).tolist() == [41] * 4
    assert zeros(theirs).tolist() == [32] * 4
    assert (population_risk(ours, teacher(), K) > 40 * population_risk(theirs, teacher(), K)).all()


def test_at_as_many_zeros_the_multiplier_has_less_risk():
    """So what it costs is the meaning of lam: with six times the lam ADMM has RVSM's zeros, and its weights are shrunk less."""
    ours, theirs = both("l1", times=6)
    assert zeros(theirs).tolist() == zeros(ours).tolist()
    assert (population_risk(ours, teacher(), K) > 3 * population_risk(theirs, teacher(), K)).all()
