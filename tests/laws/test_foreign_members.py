"""A member that a user writes goes round as one of ours does, with nothing of the package touched."""

from __future__ import annotations

import dataclasses
import math
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gracile import RVSM, attacks, fit, layerwise
from gracile.core.monitor import Monitor, Series
from gracile.core.runs import RunFolder
from gracile.data import Splits
from gracile.recipes import kinds, run, schema
from gracile.report import write_report
from gracile.workers import graphs


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))


class Count:
    """l0 once more, with nothing but the two methods that a penalty needs."""

    def value(self, w: Tensor) -> Tensor:
        return (w != 0).sum().to(w)

    def prox(self, w: Tensor, mu: float) -> Tensor:
        return torch.where(w.abs() > math.sqrt(2 * mu), w, 0.0)


@pytest.mark.parametrize("stop", [False, True])
def test_a_foreign_penalty_trains_and_resumes(blobs: Splits, tmp_path: Path, stop: bool) -> None:
    def trained(penalty: Any, folder: Path) -> tuple[Tensor, float]:
        model = network()
        settings = {"epochs": 2, "batch_size": 32, "lr": 0.05, "seed": 1, "folder": folder}
        if stop:
            half = network()
            fit(half, blobs, **{**settings, "epochs": 1}, sparsifier=RVSM(half, penalty=penalty, lam=1e-4, beta=0.1))
        split = RVSM(model, penalty=penalty, lam=1e-4, beta=0.1)
        fit(model, blobs, **settings, sparsifier=split, resume=stop)
        return torch.cat([one.flatten() for one in split.sparse_model().parameters()]), split.summary().sparsity

    found, sparsity = trained(Count(), tmp_path / "foreign")
    ours, _ = trained("l0", tmp_path / "ours")
    assert sparsity > 0
    assert torch.equal(found, ours)


def test_a_foreign_attack_is_evaluated_beside_ours(blobs: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    def brightened(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, draws: int = 1, seed: int = 0) -> Tensor:
        return (x + eps).clamp(0, 1)

    row = attacks.table.Row(brightened, norms=("linf",), gradients=False, targeted=False)
    monkeypatch.setitem(attacks.ATTACKS, "brightened", row)
    model = network().eval()
    x, y = blobs.test.inputs[:20].float() / 255, blobs.test.labels[:20]
    found = attacks.evaluate(model, x, y, eps=0.3, attacks=("fgsm", "brightened"))
    expected = (model((x + 0.3).clamp(0, 1)).argmax(1) == y) & (model(x).argmax(1) == y)
    assert found["brightened"].correct == int(expected.sum())
    assert "Brightened" in str(found)
    assert found["worst"].correct <= found["brightened"].correct


class LargestWeight(Monitor):
    """A monitor as a user writes one."""

    title = "the largest weight"
    series = {"largest": Series("Largest weight", "magnitude", caption="Over all parameters.")}  # noqa: RUF012

    def observe(self, network: nn.Module) -> dict[str, float]:
        return {"largest": max(one.abs().max().item() for one in network.parameters())}


def test_a_foreign_monitor_is_recorded_and_drawn(blobs: Splits, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(
        'name = "mine"\nkind = "train"\n[settings]\nseeds = [0]\n[settings.arms.dense]\n'
    )
    model = network()
    fit(model, blobs, steps=8, record_every=4, lr=0.05, folder=tmp_path / "dense", observe=LargestWeight())
    rows = RunFolder(tmp_path / "dense").metrics()
    assert rows[-1]["largest"] == max(one.abs().max().item() for one in model.parameters())
    page = write_report([tmp_path], tmp_path / "report.html")
    assert "Largest weight" in page.read_text()
    assert "Over all parameters." in page.read_text()


def test_a_foreign_graph_joins_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def wheel(workers: int, argument: str, seed: int) -> list[tuple[int, int]]:
        """A hub and a ring around it."""
        rim = list(range(1, workers))
        return [(0, i) for i in rim] + [(min(a, b), max(a, b)) for a, b in zip(rim, rim[1:] + rim[:1], strict=True)]

    monkeypatch.setitem(graphs.GRAPHS, "wheel", wheel)
    found = graphs.graph("wheel", 6)
    assert found.neighbours[0] == (1, 2, 3, 4, 5)
    assert all(len(row) == 3 for row in found.neighbours[1:])
    from gracile.workers import mixing_matrix

    mixing = mixing_matrix(found)
    torch.testing.assert_close(mixing.sum(0), torch.ones(6, dtype=mixing.dtype))
    torch.testing.assert_close(mixing, mixing.T)


class Wrapped(nn.Module):
    """A network that the room's storage cannot know: it says itself how it comes back from a file."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor]) -> Wrapped:
        inner = {name.removeprefix("inner."): tensor for name, tensor in tensors.items()}
        return cls(layerwise.ELMClassifier.network_type.restored(inner))


class WrappedELM(layerwise.ELMClassifier):
    """An extreme learning machine whose network is of a class of its own."""

    network_type = Wrapped

    def _learn(self, source: Any) -> Any:
        learned = super()._learn(source)
        return dataclasses.replace(learned, network=Wrapped(learned.network))


def test_a_foreign_learner_is_saved_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(layerwise.table.ESTIMATORS, "WrappedELM", WrappedELM)
    random = np.random.default_rng(0)
    X, y = random.normal(size=(60, 5)), random.integers(3, size=60)
    fitted = WrappedELM(20, seed=0).fit(X, y)
    fitted.save(tmp_path / "mine.safetensors")
    read = layerwise.load(tmp_path / "mine.safetensors")
    assert type(read) is WrappedELM
    assert type(read.net_) is Wrapped
    np.testing.assert_array_equal(read.predict(X), fitted.predict(X))


def test_a_foreign_kind_of_recipe_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Settings(schema.Strict):
        """What its recipes may hold."""

        times: int = 1

    def execute(settings: Settings, folder: RunFolder, *_: object) -> kinds.Outcome:
        value = float(sum(range(settings.times)))
        return kinds.Outcome([{"what": "sum", "value": value}], {"sum": value})

    module = types.ModuleType("a_foreign_kind")
    module.Settings, module.execute = Settings, execute  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_foreign_kind", module)
    monkeypatch.setitem(kinds.KINDS, "sum", "a_foreign_kind")
    file = tmp_path / "sum.toml"
    file.write_text(
        'title = "A sum"\nkind = "sum"\n[settings]\ntimes = 5\n[[accept]]\nclaim = "it adds up"\nvalue = "sum"\nat_least = 10\n'
    )
    finished = run(schema.load(str(file)), tmp_path / "run")
    assert finished.outcome.values == {"sum": 10.0}
    assert [met for _, met in finished.verdicts] == [True]
    assert "A sum" in (tmp_path / "run" / "report.html").read_text()
