"""Kind of recipe: SSFN over workers by consensus, in bytes, beside SGD of networks trained to the same accuracy."""

from __future__ import annotations

import logging
import statistics
import time
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gracile.core.errors import InputError
from gracile.core.runs import RunFolder
from gracile.core.seeding import derive_seed
from gracile.data import Dataset, Splits
from gracile.layerwise import Consensus, SSFNClassifier
from gracile.models.mlp import mlp
from gracile.recipes.arms import Part, Parts
from gracile.recipes.kinds import Outcome
from gracile.recipes.schema import Strict
from gracile.recipes.settings import Amounts
from gracile.recipes.tables import mean, spread
from gracile.report.figures import save_all
from gracile.report.layerwise_figures import accuracy_by_bytes
from gracile.workers import Classification, method, network, shards
from gracile.workers import train as train_workers

log = logging.getLogger("gracile")


# The learner in one place, whose cost the arms' is held against, and the arm whose accuracy the baselines have to reach.
CENTRAL, TARGET = "central", "admm"


class ConsensusArm(Strict):
    """SSFN by consensus; see `gracile.layerwise.Consensus`.

    Attributes:
        split: who holds what: a row of `gracile.workers.SPLITS` with equal shards.
        method: of the consensus.
        rounds: of the consensus.
        steps: of the consensus, at most.
        tolerance: of the consensus.
    """

    split: str = "iid"
    method: str = "admm"
    rounds: int | None = None
    steps: int = 500
    tolerance: float = 1e-4


class Baseline(Strict):
    """A multi-layer perceptron by SGD: workers take `local_steps` and then the mean of their weights.

    Attributes:
        widths: units of the hidden layers.
        local_steps: 1 is synchronous SGD, as the mean of weights then is a step by the mean of gradients.
        lr: of each worker.
        batch_size: of each worker.
        rounds: at most.
        every: rounds between measurements.
        split: who holds what.
    """

    widths: list[int]
    local_steps: int = 1
    lr: float
    batch_size: int = 32
    rounds: int
    every: int = 10
    split: str = "iid"


class Settings(Parts, Amounts):
    """What a recipe of this kind may say.

    Attributes:
        data: name or path of a data set of images or features.
        workers: how many.
        graph: that joins them.
        learner: parameters of `SSFNClassifier`; `lam` is a number.
        arms: by name; the others' bytes are compared with those of "admm".
        baselines: by name.
        seeds: of the split, the weights and R.
    """

    data: str = "mnist"
    workers: int = 6
    graph: str = "ring"
    learner: dict[str, Any] = Field(default_factory=dict)
    arms: dict[str, ConsensusArm]
    baselines: dict[str, Baseline]
    seeds: list[int] = Field(default=[0])

    def names(self) -> list[str]:
        return [CENTRAL, *self.arms, *self.baselines]

    def seeds_of(self, arm: str) -> list[int]:
        return self.seeds

    def needs(self, arm: str) -> list[str]:
        return [] if arm == CENTRAL else [CENTRAL] if arm in self.arms else [TARGET]

    def check(self, published: list[dict[str, Any]]) -> None:
        super().check(published)
        if TARGET not in self.arms or CENTRAL in (self.arms | self.baselines):
            raise InputError(
                f"The arms are held against '{TARGET}', and '{CENTRAL}' is the learner in one place.",
                f"Name one of the arms '{TARGET}', and none '{CENTRAL}'.",
            )


def outcome(
    settings: Settings, folder: RunFolder, results: dict[str, list[dict[str, Any]]], published: list[dict[str, Any]]
) -> Outcome:
    """Set the table and draw."""
    note = results.pop(CENTRAL)[-1]["note"]
    rows = [_row(name, found, results[TARGET]) for name, found in results.items()]
    firsts = {name: found[0] for name, found in results.items()}
    figure = accuracy_by_bytes(firsts, firsts[TARGET]["validation"])
    notes = [f"{settings.data}: {note}."] if note else []
    notes.append(
        "MB are those of all links together, until the network was first found at least as accurate on the validation "
        "split as SSFN by ADMM was. Baselines that never were show what they sent in all, marked >."
    )
    return Outcome(rows, _values(settings, results), save_all({"bytes": figure}, folder.path / "plots"), notes)


def train(settings: Settings, part: Part) -> dict[str, Any]:
    """The learner in one place, an arm, or a baseline until it is as accurate as the arm "admm"."""
    task = _Task(settings, settings.load(settings.data, part.seed), part.seed)
    if part.arm == CENTRAL:
        return task.central()
    if part.arm in settings.arms:
        found = task.consensus(settings.arms[part.arm], part.beside(settings, CENTRAL).numbers())
    else:
        target = part.beside(settings, TARGET).numbers()["validation"]
        found = task.descent(settings.baselines[part.arm], target)
    log.info("%s: %.2f %% of validation, %.4g MB", part.label, found["validation"], found["bytes"] / 1e6)
    return found


class _Task:
    """The data of one seed and what is learned from them."""

    def __init__(self, settings: Settings, splits: Splits, seed: int) -> None:
        self.settings, self.splits, self.seed = settings, splits, seed

    def central(self) -> dict[str, Any]:
        """The same learner where all samples are in one place."""
        model = self._learner().fit(*_arrays(self.splits.train))
        score = 100 * model.score(*_arrays(self.splits.test))
        note = self.splits.test.note
        return {"cost": model.costs_[-1], "layers": len(model.widths_), "test": score, "note": note}

    def consensus(self, arm: ConsensusArm, central: dict[str, Any]) -> dict[str, Any]:
        """One arm: accuracy, cost against the central one's, bytes."""
        joined = network(self.settings.graph, self.settings.workers, seed=self.seed)
        order = torch.cat(self._shards(arm.split))
        options = arm.model_dump(exclude={"split"})
        began = time.perf_counter()
        model = self._learner().fit(*_arrays(self.splits.train, order), workers=Consensus(joined, **options))
        seconds = time.perf_counter() - began
        return {
            "cost": model.costs_[-1],
            "central_cost": central["cost"],
            "layers": len(model.widths_),
            "central_layers": central["layers"],
            "validation": 100 * model.score(*_arrays(self.splits.validation)),
            "test": 100 * model.score(*_arrays(self.splits.test)),
            "central_test": central["test"],
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
            train_workers(
                joined, rule, problem, baseline.rounds, evaluate=accuracy, every=baseline.every, observe=watch
            )
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
    over = lambda key: (result[key] for result in results)
    sign = "" if all(result["reached"] for result in results) else "> "
    row: dict[str, Any] = {
        "arm": name,
        "validation %": spread(over("validation")),
        "test %": spread(over("test")),
        "MB sent": f"{sign}{mean(results, 'bytes') / 1e6:.4g}",
        "over ADMM's": f"{sign}{_ratio(results, admm):.3g}",
        "seconds": f"{mean(results, 'seconds'):.0f}",
    }
    if "cost" in results[0]:
        row |= {
            "layers": "/".join(str(result["layers"]) for result in results),
            "cost over central": f"{max(_gap(result) for result in results):+.1e}",
            "central test %": f"{mean(results, 'central_test'):.2f}",
        }
    else:
        row["rounds"] = f"{mean(results, 'round'):.0f}"
    return row


def _gap(result: dict[str, Any]) -> float:
    return result["cost"] / result["central_cost"] - 1


def _ratio(results: list[dict[str, Any]], admm: list[dict[str, Any]]) -> float:
    """Bytes over those of SSFN by ADMM, mean over seeds."""
    return statistics.fmean(own["bytes"] / other["bytes"] for own, other in zip(results, admm, strict=True))


def _values(settings: Settings, found: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, results in found.items():
        values[f"{name}.test"] = mean(results, "test")
        values[f"{name}.bytes"] = mean(results, "bytes")
        values[f"{name}.bytes_over_admm"] = _ratio(results, found[TARGET])
        values[f"{name}.reached"] = float(all(result["reached"] for result in results))
        if name in settings.arms:
            values[f"{name}.cost_gap"] = max(_gap(result) for result in results)
            values[f"{name}.below_central"] = max(result["central_test"] - result["test"] for result in results)
    return values
