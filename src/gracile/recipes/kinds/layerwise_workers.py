"""Kind of recipe: SSFN over workers by consensus, in bytes, beside SGD of networks trained to the same accuracy."""

from __future__ import annotations

import statistics
import time
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gracile.core.collapse import collapse_of
from gracile.core.console import told
from gracile.core.errors import InputError
from gracile.core.runs import RunFolder
from gracile.core.seeding import derive_seed
from gracile.data import Dataset, Splits
from gracile.data.batching import arrays
from gracile.layerwise import Consensus, SSFNClassifier
from gracile.models.mlp import mlp
from gracile.recipes.arms import Part, Seeded
from gracile.recipes.kinds import Outcome
from gracile.recipes.schema import Strict
from gracile.recipes.settings import Amounts
from gracile.recipes.tables import Results, Rows, collapsed, mean, spread, with_error
from gracile.report.layerwise_figures import accuracy_by_bytes
from gracile.training import evaluate
from gracile.workers import Classification, WorkerNetwork, method, network, shards
from gracile.workers import train as train_workers

# The learner in one place, whose cost the arms' is held against, and the arm whose accuracy the baselines have to reach.
CENTRAL, TARGET = "central", "admm"
# The arm that has as many iterations as the document, where there is one: bytes are told over its too.
PRINTED = "admm-100"
GROWTH = {"alpha": 2.0, "max_layers": 20, "node_step": 50, "layer_gain": 0.1, "scale": None, "dtype": "float32"}
ABOUT = (
    "MB are those of all links together, until the network was first found at least as accurate on the validation split as SSFN "
    "by ADMM was. Baselines that never were show what they sent in all, marked >."
)


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
    lr: float = Field(gt=0)
    batch_size: int = Field(default=32, ge=1)
    rounds: int = Field(ge=1)
    every: int = Field(default=10, ge=1)
    split: str = "iid"


class Settings(Seeded, Amounts):
    """What a recipe of this kind may say.

    Attributes:
        data: name or path of a data set of images or features.
        workers: how many.
        graph: that joins them.
        learner: parameters of `SSFNClassifier`; `lam` is a number.
        arms: by name; the others' bytes are compared with those of "admm".
        baselines: by name.
    """

    data: str = "mnist"
    workers: int = 6
    graph: str = "ring"
    learner: dict[str, Any] = Field(default_factory=dict)
    arms: dict[str, ConsensusArm]
    baselines: dict[str, Baseline]

    def names(self) -> list[str]:
        return [CENTRAL, *self.arms, *self.baselines]

    def needs(self, arm: str, seed: int) -> list[tuple[str, int]]:
        return [] if arm == CENTRAL else [(CENTRAL if arm in self.arms else TARGET, seed)]

    def check(self, published: Rows) -> None:
        super().check(published)
        if TARGET not in self.arms or CENTRAL in (self.arms | self.baselines):
            raise InputError(
                f"The arms are held against '{TARGET}', and '{CENTRAL}' is the learner in one place.",
                f"Name one of the arms '{TARGET}', and none '{CENTRAL}'.",
            )


def train(settings: Settings, part: Part) -> dict[str, Any]:
    """The learner in one place, an arm, or a baseline until it is as accurate as the arm "admm"."""
    splits, began = settings.load(settings.data, part.seed), time.perf_counter()
    if part.arm == CENTRAL:
        model = _learner(settings, part.seed).fit(*_arrays(splits.train))
        found = _judged(model, splits.test)
        return {"cost": model.costs_[-1], "layers": len(model.widths_), **found, "note": splits.test.note}
    joined = network(settings.graph, settings.workers, seed=part.seed)
    if part.arm in settings.arms:
        central = part.beside(settings, CENTRAL).numbers()
        found = _consensus(settings, settings.arms[part.arm], splits, part.seed, joined)
        found |= {f"central_{key}": central[key] for key in ("cost", "layers", "test")}
    else:
        target = part.beside(settings, TARGET).numbers()["validation"]
        found = _descent(settings.baselines[part.arm], splits, part.seed, joined, target)
    told.info("%s: %.2f %% of validation, %.4g MB", part.label, found["validation"], found["bytes"] / 1e6)
    return found | {"seconds": time.perf_counter() - began}


def _learner(settings: Settings, seed: int) -> SSFNClassifier:
    return SSFNClassifier(**GROWTH | settings.learner, seed=seed)


def _consensus(
    settings: Settings, arm: ConsensusArm, splits: Splits, seed: int, joined: WorkerNetwork
) -> dict[str, Any]:
    """SSFN by consensus: accuracy, cost, bytes."""
    order = torch.cat(shards(splits.train.labels, joined.workers, arm.split, seed=seed))
    consensus = Consensus(joined, **arm.model_dump(exclude={"split"}))
    model = _learner(settings, seed).fit(*_arrays(splits.train, order), workers=consensus)
    scores = {"validation": 100 * model.score(*_arrays(splits.validation)), **_judged(model, splits.test)}
    cost, layers = model.costs_[-1], len(model.widths_)
    return {"cost": cost, "layers": layers, **scores, "bytes": joined.bytes_sent, "reached": True}


def _judged(model: SSFNClassifier, data: Dataset) -> dict[str, Any]:
    """Test accuracy in percent, and how the learner has ``collapsed``."""
    answers = torch.as_tensor(model.predict(_arrays(data)[0]))
    return {
        "test": 100 * float((answers == data.labels).double().mean()),
        "collapsed": collapse_of(data.labels, answers),
    }


class Reached(Exception):
    """The baseline is as accurate as it has to be."""


def _descent(baseline: Baseline, splits: Splits, seed: int, joined: WorkerNetwork, target: float) -> dict[str, Any]:
    """One baseline, measured every few rounds until its validation accuracy reaches the target."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights", "baseline"))
        features = int(splits.train.inputs[:1].numel())
        template = mlp(num_classes=splits.train.num_classes, in_features=features, widths=baseline.widths)
    parts = dict(enumerate(shards(splits.train.labels, joined.workers, baseline.split, seed=seed)))
    problem = Classification(template, splits.train, parts, batch_size=baseline.batch_size, seed=seed)
    rows: Rows = []
    collapsed = ""

    def accuracy(x: Tensor) -> dict[str, Tensor]:
        nonlocal collapsed
        # After an exact mean all workers hold the same weights.
        found = {key: evaluate(problem.module(x[0]), getattr(splits, key)) for key in ("validation", "test")}
        collapsed = found["test"].collapsed
        return {key: x.new_full((len(x),), one.accuracy) for key, one in found.items()}

    def watch(row: dict[str, Any]) -> None:
        numbers = {key: 100 * row[key][0] for key in ("validation", "test")}
        rows.append({"round": row["round"], "bytes": row["bytes"], **numbers})
        if numbers["validation"] >= target:
            raise Reached

    averaging = method("average", lr=baseline.lr, local_steps=baseline.local_steps)
    with suppress(Reached):
        train_workers(
            joined, averaging, problem, baseline.rounds, evaluate=accuracy, every=baseline.every, observe=watch
        )
    return {**rows[-1], "reached": rows[-1]["validation"] >= target, "curve": rows, "collapsed": collapsed}


def _arrays(data: Dataset, order: Tensor | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Inputs in [0, 1], and labels."""
    x, y = arrays(data, order)
    return (x if x.dtype.kind == "f" else x / np.float32(255)).astype(np.float32), y


def outcome(settings: Settings, folder: RunFolder, results: Results, published: Rows) -> Outcome:
    """Set the table and draw."""
    note, found = results.pop(CENTRAL)[-1]["note"], Outcome()
    for name, seeds in results.items():
        found.rows.append({"arm": name, **_row(name, seeds, results[TARGET], found.values)})
        if PRINTED in results:
            found.values[f"{name}.bytes_over_{PRINTED}"] = _bytes_over(seeds, results[PRINTED])
    firsts = {name: seeds[0] for name, seeds in results.items()}
    figure = accuracy_by_bytes(firsts, firsts[TARGET]["validation"])
    return Outcome(found.rows, found.values, {"bytes": figure}, [note and f"{settings.data}: {note}.", ABOUT])


def _bytes_over(seeds: Rows, others: Rows) -> float:
    """How many times as many bytes as another arm sends, the mean over seeds."""
    return statistics.fmean(own["bytes"] / other["bytes"] for own, other in zip(seeds, others, strict=True))


def _row(name: str, seeds: Rows, admm: Rows, values: dict[str, float]) -> dict[str, Any]:
    """An arm's row; what criteria speak of goes into `values`."""
    reached = all(one["reached"] for one in seeds)
    sign = "" if reached else "> "
    ratio = _bytes_over(seeds, admm)
    numbers = {
        "test": mean(seeds, "test"), "bytes": mean(seeds, "bytes"), "bytes_over_admm": ratio, "reached": float(reached),
    }  # fmt: skip
    row = {f"{key} %": spread(one[key] for one in seeds) for key in ("validation", "test")}
    row |= {"MB sent": f"{sign}{numbers['bytes'] / 1e6:.4g}", "over ADMM's": f"{sign}{ratio:.3g}"}
    row["seconds"] = f"{mean(seeds, 'seconds'):.0f}"
    if "cost" in seeds[0]:
        gap = max(one["cost"] / one["central_cost"] - 1 for one in seeds)
        numbers["cost_gap"] = gap
        values |= with_error(f"{name}.below_central", [one["central_test"] - one["test"] for one in seeds])
        row |= {"layers": "/".join(str(one["layers"]) for one in seeds), "cost over central": f"{gap:+.1e}"}
        row["central test %"] = f"{mean(seeds, 'central_test'):.2f}"
    else:
        row["rounds"] = f"{mean(seeds, 'round'):.0f}"
    values |= {f"{name}.{key}": value for key, value in numbers.items()}
    return row | collapsed(seeds)
