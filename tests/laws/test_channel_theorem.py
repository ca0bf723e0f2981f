"""Theorem 4.1 on a network, and what brings a channel to zero at table 4.2's coefficients [dinh2020, section 4.1]."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from gracile import RGSM


def descent(penalty: str, lr: float, steps: int = 400) -> tuple[list[float], list[float]]:
    """L_beta before each full-batch step of a smooth network, and the norm of its gradient in w."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 3)).double()
    x, y = torch.randn(60, 8, dtype=torch.float64), torch.randint(3, (60,))
    split = RGSM(model, penalty, lam=2e-3, beta=0.1, layers="linear", keep_last=False)
    split.attach(optimizer := torch.optim.SGD(model.parameters(), lr=lr))
    values, slopes = [], []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        lagrangian = loss + split.penalty_value()
        values.append(lagrangian.item())
        loss.backward()
        optimizer.step()
        # The step has added the coupling to the gradients.
        slopes.append(sum(one.grad.square().sum().item() for one in model.parameters() if one.grad is not None) ** 0.5)
    return values, slopes


@pytest.mark.parametrize("penalty", ["group_lasso", "group_l0"])
def test_the_lagrangian_never_rises_along_training_and_comes_to_rest(penalty: str):
    values, slopes = descent(penalty, lr=0.5, steps=1000)
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(values))
    assert values[-1] < 0.9 * values[0]
    assert slopes[-1] < 0.02 * slopes[0]


def test_at_a_step_beyond_what_the_theorem_admits_it_does_rise():
    values, _ = descent("group_lasso", lr=20.0)
    assert any(after > before + 1e-3 for before, after in itertools.pairwise(values))


def test_the_coupling_and_not_weight_decay_brings_a_channel_below_the_threshold():
    """lam = 1e-3, beta = 1, rate 0.1, momentum 0.9, from a norm of 1 without a gradient of the loss."""
    model = nn.Conv2d(2, 1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([1.0, 5.0]).view(1, 2, 1, 1))
    split = RGSM(model, "group_lasso", lam=1e-3, beta=1.0, grouping="input_channel")
    split.attach(optimizer := torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    steps = 0
    while model.weight[0, 0].abs().item() > 1e-3:
        model.weight.grad = torch.zeros_like(model.weight)
        optimizer.step()
        steps += 1
    assert steps == 1008
    w, speed, decayed = 1.0, 0.0, 0
    while w > 1e-3:
        speed = 0.9 * speed + 5e-4 * w
        w, decayed = w - 0.1 * speed, decayed + 1
    assert 13_500 < decayed < 14_000
