"""Optimising the first matrix under rank(A) = P [javid2021, eq. 6.25]: what the method keeps, and what it is worth beside more nodes."""

from __future__ import annotations

import itertools
import statistics
from functools import cache

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from gracile.core.errors import InputError
from gracile.core.seeding import generator
from gracile.layerwise.alternating import alternate
from gracile.layerwise.flow import lossless_weights, signed_relu
from gracile.layerwise.slfn import invert


def drawn(m: int, inputs: int, seed: int) -> Tensor:
    return torch.rand(m, inputs + 1, generator=generator(seed, "alternating", m), dtype=torch.float64) * 2 - 1


def small() -> tuple[Tensor, Tensor, Tensor]:
    random = generator(0, "small")
    x = torch.randn(50, 4, generator=random, dtype=torch.float64)
    return drawn(6, 4, 0), x, torch.stack([x.prod(1), x[:, 0].abs()], 1)


def reduced_cost(a: Tensor, x: Tensor, targets: Tensor, lam: float) -> Tensor:
    """The cost with the best O, from the normal equations as they stand."""
    y = signed_relu(x @ a[:, :-1].T + a[:, -1])
    last = torch.linalg.solve(y.T @ y + lam * torch.eye(y.shape[1], dtype=y.dtype), y.T @ targets)
    return (targets - y @ last).square().sum() + lam * last.square().sum()


def test_the_first_step_goes_down_autograds_gradient_of_what_the_best_last_layer_leaves():
    a, x, targets = small()
    found = alternate(a, x, targets, lam=0.1, steps=1)
    watched = a.clone().requires_grad_()
    cost = reduced_cost(watched, x, targets, 0.1)
    cost.backward()
    assert found.costs[0] == pytest.approx(cost.item(), rel=1e-12)
    assert watched.grad is not None
    cosine = functional.cosine_similarity((a - found.first).flatten(), watched.grad.flatten(), dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-12)


def test_costs_never_rise_and_the_last_layer_is_the_best_for_the_first():
    a, x, targets = small()
    found = alternate(a, x, targets, lam=0.1, steps=60)
    assert all(after < before for before, after in itertools.pairwise(found.costs))
    assert found.costs[-1] < 0.3 * found.costs[0]
    assert found.costs[-1] == pytest.approx(reduced_cost(found.first, x, targets, 0.1).item(), rel=1e-10)


def test_the_rank_stays_so_that_inputs_can_be_had_back():
    a, x, targets = small()
    stacked = lossless_weights(alternate(a, x, targets, lam=0.1, steps=60).first)
    hidden = (x @ stacked[:, :-1].T + stacked[:, -1]).relu()
    torch.testing.assert_close(invert(stacked[:, :-1], stacked[:, -1], hidden), x, rtol=0, atol=1e-10)


def test_what_is_no_problem_is_refused():
    a, x, targets = small()
    with pytest.raises(InputError, match="no problem"):
        alternate(a[:3], x, targets, lam=0.1)
    with pytest.raises(InputError, match="no problem"):
        alternate(a, x, targets, lam=0.0)
    with pytest.raises(InputError, match="rank"):
        alternate(torch.ones_like(a), x, targets, lam=0.1)


@cache
def accuracies(m: int, steps: int) -> list[float]:
    """Percent of digits right on test samples, one a seed, at lam = 1."""
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x) / 16, torch.tensor(y)
    found = []
    for seed in range(3):
        train, test = torch.randperm(len(x), generator=generator(seed, "split")).split([600, 1197])
        targets = 2 * functional.one_hot(y[train], 10).double() - 1
        model = alternate(drawn(m, 64, seed), x[train], targets, lam=1.0, steps=steps)
        found.append(100 * float((model(x[test]).argmax(1) == y[test]).double().mean()))
    return found


def test_optimising_the_first_matrix_gains_points_and_as_many_parameters_in_more_nodes_gain_them_too():
    """At rho = 2, and at the rho whose last layer has as many parameters as both matrices have there."""
    # One step of A is as good as none.
    fixed, learned, wider = accuracies(64, 1), accuracies(64, 40), accuracies(64 + (64 * 65) // 20, 1)
    gains = [after - before for after, before in zip(learned, fixed, strict=True)]
    assert min(gains) > 0.5
    assert statistics.fmean(gains) > 1.2
    assert statistics.fmean(wider) > statistics.fmean(learned) - 0.5
