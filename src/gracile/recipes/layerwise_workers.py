"""Kind of recipe: SSFN over workers by consensus, in bytes, beside SGD of networks trained to the same accuracy."""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gracile.core.files import write_json
from gracile.core.runs import RunFolder
from gracile.core.seeding import derive_seed
from gracile.data import Dataset, Splits, load
from gracile.layerwise import Consensus, SSFNClassifier
from gracile.models.mlp import mlp
from gracile.recipes.kinds import Outcome
from gracile.recipes.schema import Strict
from gracile.report.figures import new_figure, save
from gracile.workers import Classification, method, network, shards, train

log = logging.getLogger("gracile")


class Arm(Strict):
    """SSFN by consensus; see `gracile.layerwise.Consensus`.

    Attributes:
        split: who holds what: a row of `gracile.workers.SPLITS` with equal shards.
        method, rounds, iterations, tolerance: of the consensus.
    """

    split: str = "iid"
    method: str = "admm"
    rounds: int | None = None
    iterations: int = 500
    tolerance: float = 1e-4


class Baseline(Strict):
    """A multi-layer perceptron by SGD: workers take `local_steps` and then the mean of their weights.

    Attributes:
        widths: units of the hidden layers.
        local_steps: 1 is synchronous SGD, as the mean of weights then is a step by the mean of gradients.
        lr, batch_size: of each worker.
        rounds: at most. every: rounds between measurements.
        split: who holds what.
    """

    widths: list[int]
    local_steps: int = 1
    lr: float
    batch_size: int = 32
    rounds: int
    every: int = 10
    split: str = "iid"


class Settings(Strict):
    """What a recipe of this kind may say.

    Attributes:
        data: name or path of a data set of images or features.
        validation: share of the training data on which equal accuracy is told.
        train_limit, test_limit: samples; all by default.
        workers, graph: the network.
        learner: parameters of `SSFNClassifier`; `lam` is a number.
        arms: by name; the others' bytes are compared with those of "admm".
        baselines: by name.
        seeds: of the split, the weights and R.
    """

    data: str = "mnist"
    validation: float = 0.1
    train_limit: int | None = None
    test_limit: int | None = None
    workers: int = 6
    graph: str = "ring"
    learner: dict[str, Any] = Field(default_factory=dict)
    arms: dict[str, Arm]
    baselines: dict[str, Baseline]
    seeds: list[int] = Field(default=[0])


def execute(settings: Settings, folder: RunFolder, published: list[dict[str, Any]]) -> Outcome:
    """Fit every arm, then train every baseline until it is as accurate as "admm"; what is done is kept."""
    found: dict[str, list[dict[str, Any]]] = {}
    note = ""
    for seed in settings.seeds:
        splits = load(
            settings.data,
            validation=settings.validation,
            seed=seed,
            train_limit=settings.train_limit,
            test_limit=settings.test_limit,
        )
        note = splits.test.note
        for name, result in Task(settings, splits, seed).results(folder.part(f"seed{seed}")).items():
            found.setdefault(name, []).append(result)
    rows = [_row(name, results, found["admm"]) for name, results in found.items()]
    notes = [f"{settings.data}: {note}."] if note else []
    notes.append(
        "MB are those of all links together, until the network was first found at least as accurate on the validation "
        "split as SSFN by ADMM was. Baselines that never were show what they sent in all, marked >."
    )
    return Outcome(rows, _values(settings, found), {"bytes": _picture(found, folder)}, notes)


def _kept(file: Path, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    if not file.exists():
        write_json(file, run())
        kept = json.loads(file.read_text())
        log.info("%s: %.2f %% of validation, %.4g MB", file.stem, kept["validation"], kept["bytes"] / 1e6)
    return json.loads(file.read_text())


@dataclass
class Task:
    """The data of one seed and what is learned from them."""

    settings: Settings
    splits: Splits
    seed: int

    @cached_property
    def central(self) -> SSFNClassifier:
        """The same learner where all samples are in one place."""
        return self._learner().fit(*_arrays(self.splits.train))

    def results(self, part: RunFolder) -> dict[str, dict[str, Any]]:
        """Of every arm, then of every baseline."""
        found = {
            name: _kept(part.path / f"{name}.json", lambda arm=arm: self.consensus(arm))
            for name, arm in self.settings.arms.items()
        }
        target = found["admm"]["validation"]
        return found | {
            name: _kept(part.path / f"{name}.json", lambda baseline=baseline: self.descent(baseline, target))
            for name, baseline in self.settings.baselines.items()
        }

    def consensus(self, arm: Arm) -> dict[str, Any]:
        """One arm: accuracy, cost against the central one's, bytes."""
        joined = network(self.settings.graph, self.settings.workers, seed=self.seed)
        order = torch.cat(self._shards(arm.split))
        options = arm.model_dump(exclude={"split"})
        began = time.perf_counter()
        model = self._learner().fit(*_arrays(self.splits.train, order), workers=Consensus(joined, **options))
        seconds = time.perf_counter() - began
        return {
            "cost": model.costs_[-1],
            "central_cost": self.central.costs_[-1],
            "layers": len(model.widths_),
            "central_layers": len(self.central.widths_),
            "validation": 100 * model.score(*_arrays(self.splits.validation)),
            "test": 100 * model.score(*_arrays(self.splits.test)),
            "central_test": 100 * self.central.score(*_arrays(self.splits.test)),
            "bytes": joined.bytes_sent,
            "seconds": seconds,
            "reached": True,
        }

    def descent(self, baseline: Baseline, target: float) -> dict[str, Any]:
        """One baseline, measured every few rounds until its validation accuracy reaches the target."""
        joined = network(self.settings.graph, self.settings.workers, seed=self.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "weights", "baseline"))
            features = int(self.splits.train.inputs[:1].numel())
            template = mlp(num_classes=self.splits.train.num_classes, in_features=features, widths=baseline.widths)
        parts = dict(enumerate(self._shards(baseline.split)))
        problem = Classification(template, self.splits.train, parts, batch_size=baseline.batch_size, seed=self.seed)

        def accuracy(x: Tensor) -> dict[str, Tensor]:
            # After an exact mean all workers hold the same weights.
            of = lambda data: problem.evaluate(x[:1], data)[0].expand(len(x))
            return {"validation": of(self.splits.validation), "test": of(self.splits.test)}

        rows: list[dict[str, Any]] = []

        def watch(row: dict[str, Any]) -> None:
            numbers = {key: 100 * row[key][0] for key in ("validation", "test")}
            rows.append({"round": row["round"], "bytes": row["bytes"], **numbers})
            if numbers["validation"] >= target:
                raise Reached

        rule = method("average", lr=baseline.lr, local_steps=baseline.local_steps)
        began = time.perf_counter()
        with suppress(Reached):
            train(joined, rule, problem, baseline.rounds, evaluate=accuracy, every=baseline.every, observe=watch)
        last = rows[-1]
        return {**last, "reached": last["validation"] >= target, "seconds": time.perf_counter() - began, "curve": rows}

    def _learner(self) -> SSFNClassifier:
        growth = {"alpha": 2.0, "max_layers": 20, "node_step": 50, "layer_gain": 0.1}
        published = {**growth, "scale": None, "dtype": "float32"}
        return SSFNClassifier(**published | self.settings.learner, seed=self.seed)

    def _shards(self, split: str) -> list[Tensor]:
        return shards(self.splits.train.labels, self.settings.workers, split, seed=self.seed)


class Reached(Exception):
    """The baseline is as accurate as it has to be."""


def _arrays(data: Dataset, order: Tensor | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Inputs in [0, 1], flattened, and labels."""
    rows = torch.arange(len(data)) if order is None else order
    inputs = data.inputs[rows].flatten(1)
    inputs = inputs if inputs.is_floating_point() else inputs / 255.0
    return inputs.float().numpy(), data.labels[rows].numpy()


def _row(name: str, results: list[dict[str, Any]], admm: list[dict[str, Any]]) -> dict[str, Any]:
    mean = lambda key: statistics.fmean(result[key] for result in results)
    spread = lambda key: f" ± {statistics.stdev(r[key] for r in results):.2f}" if len(results) > 1 else ""
    sign = "" if all(result["reached"] for result in results) else "> "
    row: dict[str, Any] = {
        "arm": name,
        "validation %": f"{mean('validation'):.2f}{spread('validation')}",
        "test %": f"{mean('test'):.2f}{spread('test')}",
        "MB sent": f"{sign}{mean('bytes') / 1e6:.4g}",
        "over ADMM's": f"{sign}{_ratio(results, admm):.3g}",
        "seconds": f"{mean('seconds'):.0f}",
    }
    if "cost" in results[0]:
        row |= {
            "layers": "/".join(str(result["layers"]) for result in results),
            "cost over central": f"{max(_gap(result) for result in results):+.1e}",
            "central test %": f"{mean('central_test'):.2f}",
        }
    else:
        row["rounds"] = f"{mean('round'):.0f}"
    return row


def _gap(result: dict[str, Any]) -> float:
    return result["cost"] / result["central_cost"] - 1


def _ratio(results: list[dict[str, Any]], admm: list[dict[str, Any]]) -> float:
    """Bytes over those of SSFN by ADMM, mean over seeds."""
    return statistics.fmean(own["bytes"] / other["bytes"] for own, other in zip(results, admm, strict=True))


def _values(settings: Settings, found: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, results in found.items():
        values[f"{name}.test"] = statistics.fmean(result["test"] for result in results)
        values[f"{name}.bytes"] = statistics.fmean(result["bytes"] for result in results)
        values[f"{name}.bytes_over_admm"] = _ratio(results, found["admm"])
        values[f"{name}.reached"] = float(all(result["reached"] for result in results))
        if name in settings.arms:
            values[f"{name}.cost_gap"] = max(_gap(result) for result in results)
            values[f"{name}.below_central"] = max(result["central_test"] - result["test"] for result in results)
    return values


def _picture(found: dict[str, list[dict[str, Any]]], folder: RunFolder) -> Path:
    """Validation accuracy against bytes: the baselines' curves and a point an arm, of the first seed."""
    figure = new_figure(9.0, 4.4)
    axes = figure.subplots()
    for number, (name, results) in enumerate(found.items()):
        first = results[0]
        if "curve" in first:
            sent = [row for row in first["curve"] if row["bytes"]]
            axes.semilogx(
                [row["bytes"] / 1e6 for row in sent],
                [row["validation"] for row in sent],
                color=f"C{number}",
                label=name,
            )
        else:
            axes.semilogx(first["bytes"] / 1e6, first["validation"], "o", color=f"C{number}", label=f"SSFN, {name}")
    target = found["admm"][0]["validation"]
    axes.axhline(target, color="0.6", linewidth=0.8)
    axes.set(xlabel="MB sent over all links", ylabel="validation accuracy, %", ylim=(target - 15, target + 3))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    path = folder.path / "plots" / "bytes.png"
    save(figure, path)
    return path.relative_to(folder.path)
