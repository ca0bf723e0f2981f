"""The rooms on an accelerator give what they give on a processor; ``GRACILE_TEST_DEVICE=cpu`` runs the same tests without one."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gracile import RGSM, RVSM, fit, shrink
from gracile.attacks.table import ATTACKS
from gracile.channels import trace
from gracile.data import Splits
from gracile.dynamics import watch
from gracile.layerwise import ELMClassifier
from gracile.models import enresnet, set_noise
from gracile.one_layer import Trajectories, random_starts, rvscgd, rvsm, sparse_teacher
from gracile.penalties.table import ELEMENTWISE, GROUPED
from gracile.splitting import Dial
from gracile.training.precision import Precision

EXAMPLE = torch.zeros(2, 1, 8, 8)


@pytest.fixture
def device() -> torch.device:
    """The machine's accelerator, or what GRACILE_TEST_DEVICE names."""
    name = os.environ.get("GRACILE_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "")
    if not name:
        pytest.skip("needs an accelerator: none is here, and GRACILE_TEST_DEVICE names no device")
    return torch.device(name)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 3),
    )  # fmt: skip


def near(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> bool:
    return torch.allclose(found.cpu(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", [*ELEMENTWISE, *GROUPED])
def test_proximal_maps_and_values(device: torch.device, name: str) -> None:
    penalty = {**ELEMENTWISE, **GROUPED}[name]()
    w = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    assert near(penalty.prox(w.to(device), 0.3), penalty.prox(w, 0.3))
    assert near(penalty.value(w.to(device)), penalty.value(w))


@pytest.mark.parametrize(
    "method",
    [lambda model, x: RVSM(model, lam=1e-5, beta=0.1), lambda model, x: RGSM(model, beta=0.1, example=x)],
    ids=["rvsm", "rgsm"],
)
def test_a_step_is_that_of_the_processor(
    device: torch.device, method: Callable[[nn.Module, Tensor], RVSM | RGSM]
) -> None:
    """One step from the same weights on the same batch, splitting and all."""
    x, y = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 3
    after = []
    for place in (torch.device("cpu"), device):
        model = network().to(place)
        split = method(model, x.to(place))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        split.attach(optimizer)
        nn.functional.cross_entropy(model(x.to(place)), y.to(place)).backward()
        optimizer.step()
        after.append((model, split.sparse_model()))
    for own, theirs in zip(*after, strict=True):
        for expected, found in zip(own.parameters(), theirs.parameters(), strict=True):
            assert found.device.type == device.type
            assert near(found.detach(), expected.detach())


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_run_ends_at_its_budget_and_shrinks(device: torch.device, blobs: Splits, precision: Precision) -> None:
    model, example = network().to(device), EXAMPLE.to(device)
    dial = Dial(RGSM(model, example=example), steps=24, macs=0.4, example=example)
    history = fit(model, blobs, epochs=4, batch_size=32, lr=0.05, sparsifier=dial, precision=precision)
    assert history.rows[-1]["train_loss"] < math.log(3)
    sparse = dial.sparse_model().eval()
    graph = trace(sparse, example)
    assert 0.38 < graph.count().macs / graph.dense().macs <= 0.4
    lean, x = shrink(sparse, example), torch.rand(8, 1, 8, 8, device=device)
    assert next(lean.parameters()).device.type == device.type
    with torch.no_grad():
        assert near(lean.eval()(x), sparse(x).cpu())


def test_a_run_is_resumed(device: torch.device, blobs: Splits, tmp_path: Path) -> None:
    settings = {"batch_size": 32, "lr": 0.05, "precision": "float32"}
    whole = network().to(device)
    fit(whole, blobs, epochs=3, folder=tmp_path / "whole", **settings)
    halved = network().to(device)
    fit(halved, blobs, steps=9, folder=tmp_path / "halved", **settings)
    fit(halved, blobs, epochs=3, folder=tmp_path / "halved", resume=True, **settings)
    for expected, found in zip(whole.parameters(), halved.parameters(), strict=True):
        assert near(found.detach(), expected.detach().cpu())


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_keep_ball_range_and_place(device: torch.device, name: str) -> None:
    model = network().to(device).eval()
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(2)).to(device)
    y = model(x).argmax(1)
    options = {"eps": 0.1} if name != "cw_paper" else {}
    found = ATTACKS[name].attack(model, x, y, **options)
    assert found.device == x.device
    if options:
        assert (found - x).abs().max() <= 0.1 + 1e-6
        assert found.min() >= 0
        assert found.max() <= 1


def test_an_ensemble_trains_and_answers(device: torch.device) -> None:
    """On an accelerator the members run as one network of grouped convolutions."""
    torch.manual_seed(0)
    model = enresnet(n=2, depth=8, width=4, in_channels=1, image_size=8)
    apart = copy.deepcopy(model).to(device)
    x = torch.rand(4, 1, 8, 8)
    for one in (model, apart):
        set_noise(one.eval(), "off")
    with torch.no_grad():
        assert near(apart(x.to(device)), model(x), 1e-3)


def test_records_of_the_dynamics(device: torch.device) -> None:
    rows = []
    for place in (torch.device("cpu"), device):
        model = network().to(place)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        monitor = watch(model, EXAMPLE.to(place), optimizer=optimizer, every=2)
        x = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(3)).to(place)
        for _ in range(4):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), torch.arange(8, device=place) % 3).backward()
            optimizer.step()
        monitor.record(full=True)
        rows.append(monitor.summary())
    assert rows[0].keys() == rows[1].keys()
    for key, expected in rows[0].items():
        assert rows[1][key] == pytest.approx(expected, rel=1e-2, abs=1e-4), key


@pytest.mark.parametrize("method", [rvsm, rvscgd])
def test_one_layer(device: torch.device, method: Callable[..., Trajectories]) -> None:
    w_star, w = sparse_teacher(10, 3), random_starts(20, 10)
    settings = {"lam": 1e-3, "beta": 0.02, "lr": 0.2, "steps": 30}
    expected = method(w, w_star, 4, **settings)
    found = method(w.to(device), w_star.to(device), 4, **settings)
    assert found.w.device.type == device.type
    assert near(found.w, expected.w, 1e-8)


def test_layer_wise_learners(device: torch.device, blobs: Splits) -> None:
    x, y = blobs.train.inputs.flatten(1).float().div(255).numpy(), blobs.train.labels.numpy()
    own, theirs = (ELMClassifier(n=60, lam=1.0, device=name).fit(x, y) for name in ("cpu", str(device)))
    assert (own.predict(x) == theirs.predict(x)).mean() > 0.99
