"""Smoothness along the gradient: closed answers, and that measuring leaves training alone."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gracile import data as datasets
from gracile import fit
from gracile.core.errors import InputError
from gracile.dynamics import SmoothnessMonitor, smoothness
from gracile.models import L1BatchNorm1d, standardise_weights

A = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)


class Quadratic(nn.Module):
    """``w``, whose loss below is ``1/2 w^T A w``: everything along its gradient is known."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.w


def quadratic(w: Tensor, _targets: Tensor) -> Tensor:
    return (A * w.square()).sum() / 2


def test_a_quadratic_has_the_known_answers() -> None:
    model = Quadratic()
    x = torch.zeros(1)
    found = smoothness(model, x, x, lr=0.1, factors=(0.5, 1.0, 4.0), loss=quadratic)
    w = model.w.detach()
    g = A * w
    at = [w - eta * g for eta in (0.05, 0.1, 0.4)]
    losses = [quadratic(one, x).item() for one in at]
    changes = [(eta * A * g).norm().item() for eta in (0.05, 0.1, 0.4)]
    assert found.loss == pytest.approx(quadratic(w, x).item())
    assert found.gradient_norm == pytest.approx(g.norm().item())
    assert (found.loss_low, found.loss_high) == pytest.approx((min(losses), max(losses)))
    assert (found.gradient_change_low, found.gradient_change_high) == pytest.approx((changes[0], changes[2]))
    assert found.beta_smoothness == pytest.approx(((A * g).norm() / g.norm()).item())
    assert found.beta_smoothness <= 9


def test_at_a_minimum_it_is_zero() -> None:
    model = Quadratic()
    nn.init.zeros_(model.w)
    found = smoothness(model, torch.zeros(1), torch.zeros(1), lr=0.1, loss=quadratic)
    assert (found.gradient_norm, found.beta_smoothness) == (0, 0)


def busy() -> nn.Sequential:
    torch.manual_seed(0)
    last = standardise_weights(nn.Linear(7, 3))
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 7), L1BatchNorm1d(7), last
    )


def test_measuring_changes_nothing() -> None:
    model, x, y = busy(), torch.randn(12, 4), torch.randint(3, (12,))
    nn.functional.cross_entropy(model(x), y).backward()
    kept = copy.deepcopy(model.state_dict())
    gradients = [one.grad.clone() for one in model.parameters()]
    model[3].eval()  # a mode of its own must come back
    state = torch.get_rng_state()
    SmoothnessMonitor(model, x, y, lr=0.1).record()
    assert torch.equal(torch.get_rng_state(), state)
    assert [one.training for one in model] == [True, True, True, False, True, True, True]
    for name, tensor in kept.items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert all(torch.equal(one.grad, was) for one, was in zip(model.parameters(), gradients, strict=True))


def test_dropout_draws_the_same_masks_at_every_step() -> None:
    """With masks of their own, steps that go nowhere would still change the gradient."""
    model, x, y = busy(), torch.randn(12, 4), torch.randint(3, (12,))
    found = smoothness(model, x, y, lr=1e-9)
    assert found.gradient_change_high < 1e-4 * found.gradient_norm


def test_the_monitor_records_by_itself_and_in_training_mode(tmp_path: Path) -> None:
    model, x, y = busy(), torch.randn(12, 4), torch.randint(3, (12,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    monitor = SmoothnessMonitor(model, x, y, lr=0.05, every=2, folder=tmp_path).attach(optimizer)
    with pytest.raises(InputError, match="attached"):
        monitor.attach(optimizer)
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    monitor.detach()
    optimizer.step()
    assert [row["step"] for row in monitor.rows] == [2, 4]
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert written == [{"monitor": "smoothness", **row} for row in monitor.rows]
    model.eval()
    torch.manual_seed(5)
    evaluated = monitor.record()
    torch.manual_seed(5)
    model.train()
    trained = smoothness(model, x, y, lr=0.05)
    assert evaluated["beta_smoothness"] == pytest.approx(trained.beta_smoothness)


def test_it_joins_the_rows_of_fit() -> None:
    splits = datasets.load("digits", train_limit=200, test_limit=50)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    x, y = splits.train.inputs[:32].float() / 255, splits.train.labels[:32]
    monitor = SmoothnessMonitor(model, x, y, lr=0.05)
    history = fit(model, splits, epochs=2, lr=0.05, observe=monitor)
    assert all(row["loss_low"] <= row["loss_high"] for row in history.rows)
    assert all(row["beta_smoothness"] > 0 for row in history.rows)


def test_steps_must_lead_somewhere() -> None:
    x = torch.zeros(1)
    for how in ({"lr": 0.0}, {"lr": 0.1, "factors": ()}, {"lr": 0.1, "factors": (1.0, -1.0)}):
        with pytest.raises(InputError, match="do not lead along a gradient"):
            smoothness(Quadratic(), x, x, loss=quadratic, **how)
    frozen = Quadratic().requires_grad_(False)
    with pytest.raises(InputError, match="no parameter that is trained"):
        smoothness(frozen, x, x, lr=0.1, loss=quadratic)
    with pytest.raises(InputError, match="every=0"):
        SmoothnessMonitor(Quadratic(), x, x, lr=0.1, every=0)
