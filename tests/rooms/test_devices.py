"""The rooms give on a GPU what they give on a processor."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gracile import RGSM, RVSM, fit, shrink
from gracile.attacks import pgd
from gracile.attacks.table import ATTACKS
from gracile.channels import trace
from gracile.data import Splits
from gracile.dynamics import watch
from gracile.export import export_onnx
from gracile.forward_forward import FFClassifier
from gracile.layerwise.table import ESTIMATORS
from gracile.models import enresnet, set_noise
from gracile.one_layer import Trajectories, random_starts, rvscgd, rvsm, sparse_teacher
from gracile.penalties.table import ELEMENTWISE, GROUPED
from gracile.recipes import methods
from gracile.splitting import Dial
from gracile.training.precision import Precision
from gracile.workers import network as workers_on
from tests.conftest import small_network

EXAMPLE = torch.zeros(2, 1, 8, 8)
network = partial(small_network, 12, 16)


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A GPU; and the processor, so that these tests do not go stale where there is none."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU that torch can see")
    # A GPU's convolutions keep ten bits otherwise, and could not be held to a processor's.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return torch.device(request.param)


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
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3, bias=False)).to(device)
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(2)).to(device)
    y = model(x).argmax(1)
    options = {"eps": 0.1} if name != "cw_paper" else {}
    found = ATTACKS[name].attack(model, x, y, **options)
    assert found.device == x.device
    assert not torch.equal(found, x)
    if options:
        assert (model(found).argmax(1) != y).any()
        assert (found - x).abs().max() <= 0.1 + 1e-6
        assert found.min() >= 0
        assert found.max() <= 1


def test_pgd_from_the_sample_itself_is_that_of_the_processor(device: torch.device) -> None:
    model = network().eval()
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    y = model(x).argmax(1)
    expected, found = (
        pgd(copy.deepcopy(model).to(place), x.to(place), y.to(place), eps=0.1, steps=3, random_start=False)
        for place in ("cpu", device)
    )
    # A gradient near zero may change its sign.
    assert (torch.isclose(found.cpu(), expected, atol=1e-5)).float().mean() > 0.98


def test_an_ensemble_trains_and_answers(device: torch.device) -> None:
    """On a GPU the members run as one network of grouped convolutions."""
    x, y = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(5)), torch.arange(8) % 10
    answers = []
    for place in (torch.device("cpu"), device):
        torch.manual_seed(0)
        model = enresnet(n=2, depth=8, width=4, in_channels=1, image_size=8).to(place)
        set_noise(model, "off")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        nn.functional.cross_entropy(model(x.to(place)), y.to(place)).backward()
        optimizer.step()
        with torch.no_grad():
            answers.append(model.eval()(x.to(place)))
    assert near(answers[1], answers[0])


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
        assert rows[1][key] == pytest.approx(expected, rel=1e-3, abs=1e-6), key


@pytest.mark.parametrize("method", [rvsm, rvscgd])
def test_one_layer(device: torch.device, method: Callable[..., Trajectories]) -> None:
    w_star, w = sparse_teacher(10, 3), random_starts(20, 10)
    settings = {"lam": 1e-3, "beta": 0.02, "lr": 0.2, "steps": 30}
    expected = method(w, w_star, 4, **settings)
    found = method(w.to(device), w_star.to(device), 4, **settings)
    assert found.w.device.type == device.type
    assert near(found.w, expected.w, 1e-8)


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name.endswith("Classifier")])
def test_layer_wise_learners(device: torch.device, blobs: Splits, name: str) -> None:
    x, y = blobs.train.inputs.flatten(1).float().div(255).numpy(), blobs.train.labels.numpy()
    own, theirs = (ESTIMATORS[name](device=place).fit(x, y) for place in ("cpu", str(device)))
    assert (own.predict(x) == theirs.predict(x)).mean() > 0.99


def test_forward_forward(device: torch.device, blobs: Splits) -> None:
    x, y = blobs.train.inputs.flatten(1).float().div(255).numpy(), blobs.train.labels.numpy()
    learner = FFClassifier((50,), epochs=15, batch_size=32, device=str(device)).fit(x, y)
    assert learner.score(x, y) > 0.9


@pytest.mark.filterwarnings("ignore::gracile.core.errors.CollapseWarning")
@pytest.mark.parametrize("name", [name for name in methods.METHODS if name not in ("rvsm", "rgsm")])
def test_baselines_hold_their_zeros(device: torch.device, blobs: Splits, name: str) -> None:
    model = network().to(device)
    found = dead_channels(network()).to(device) if name == "scratch" else None
    method = methods.build(name, model, EXAMPLE.to(device), {}, steps=24, found=found)
    fit(model, blobs, epochs=4, batch_size=32, lr=0.05, sparsifier=method)
    sparse = method.sparse_model()
    assert next(sparse.parameters()).device.type == device.type
    assert sum(int((one == 0).sum()) for one in sparse.parameters() if one.ndim > 1) > 0


def test_a_network_is_exported_from_where_it_stands(device: torch.device, tmp_path: Path) -> None:
    model = network().to(device).eval()
    file = export_onnx(model, EXAMPLE.to(device), tmp_path / "net.onnx", verbose=False)
    assert file.path.is_file()
    assert next(model.parameters()).device.type == device.type


@pytest.mark.parametrize("name", ["ring", "complete"])
def test_workers_mix(device: torch.device, name: str) -> None:
    values = torch.randn(4, 7, generator=torch.Generator().manual_seed(6))
    assert near(workers_on(name, 4).mix(values.to(device), 3), workers_on(name, 4).mix(values, 3), 1e-6)


def dead_channels(model: nn.Sequential) -> nn.Sequential:
    """A shape for `Scratch` to take."""
    with torch.no_grad():
        model[3].weight[:, :4] = 0
    return model
