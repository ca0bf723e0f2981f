"""The kind of recipe that trains one network over many workers: arms differ in graph, method, split and messages."""

from __future__ import annotations

import logging
import statistics
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from gracile import workers
from gracile.core.collapse import COLLAPSES, of_several
from gracile.core.console import told
from gracile.core.errors import InputError
from gracile.core.runs import RunFolder
from gracile.data import Dataset
from gracile.recipes import arms, tables
from gracile.recipes.kinds import Outcome
from gracile.recipes.schema import Strict, parse, typed_options
from gracile.recipes.settings import DataSettings, ModelSettings, build_network
from gracile.recipes.tables import Column, Results, Rows, published_row
from gracile.report import worker_figures
from gracile.training import evaluate
from gracile.workers import InProcess, Processes, Transport

log = logging.getLogger("gracile")

# Arms beyond which they have no page each, and beyond which lines could not be told apart.
FEW, MANY = 6, 10


class RoundSettings(Strict):
    """How long, and with what.

    Attributes:
        rounds: of the method.
        batch_size: samples a worker takes a step.
        weight_decay: l2 coefficient.
        every: rounds between measurements on the validation split.
        exact: compute worker by worker, so that any number of processes gives the same bits; always so in real ones.
        statistics: of networks that keep running ones, such as batch-norm's: ``averaged`` after each round, or ``local``.
    """

    rounds: int = Field(ge=1)
    batch_size: int = Field(default=32, ge=1)
    weight_decay: float = Field(default=0.0, ge=0)
    every: int = Field(default=10, ge=1)
    exact: bool = False
    statistics: Literal["averaged", "local"] = "averaged"


class NetworkArm(arms.Arm):
    """One network of workers.

    Attributes:
        graph: a row of `gracile.workers.GRAPHS`.
        edges: pairs of workers, in place of a family.
        workers: how many; 1 trains in one place.
        mixing: a row of `gracile.workers.MIXINGS`.
        split: who holds what.
        method: a row of `gracile.workers.METHODS`.
        options: what it takes.
        drop: share of messages lost.
        rounds: in place of the recipe's.
        batch_size: in place of the recipe's.
        every: in place of the recipe's.
    """

    graph: str = "ring"
    edges: list[list[int]] | None = None
    workers: int = 6
    mixing: str = "metropolis"
    split: str = "iid"
    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    drop: float = 0.0
    rounds: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    every: int | None = Field(default=None, ge=1)

    @property
    def joined(self) -> str | list[tuple[int, ...]]:
        """What makes the graph: its name, or its edges."""
        return self.graph if self.edges is None else [tuple(pair) for pair in self.edges]

    @property
    def title(self) -> str:
        """What the table calls the graph."""
        if self.workers == 1:
            return "one place"
        return f"{self.graph if self.edges is None else 'edges'}, {self.workers}"

    def built(self) -> workers.Method:
        """The method, fresh."""
        return workers.method(self.method, **typed_options(workers.METHODS, self.method, self.options))

    def network(self, transport: Transport, seed: int):
        """The network of this process's workers."""
        return workers.network(
            self.joined, self.workers, mixing=self.mixing, drop=self.drop, seed=seed, transport=transport
        )


class Settings(arms.ArmSettings[NetworkArm]):
    """What a recipe of this kind holds.

    Attributes:
        processes: real processes a network is spread over; 1 hosts all workers in this one. Under torchrun it is its
            world size.
        patience: seconds a late message is waited for in real processes; without, as long as it takes.
        restarts: how many killed processes are started again.
    """

    data: DataSettings
    model: ModelSettings = ModelSettings()
    training: RoundSettings
    processes: int = Field(default=1, ge=1)
    patience: float | None = Field(default=None, gt=0)
    restarts: int = Field(default=0, ge=0)

    def check(self, published: Rows) -> None:
        super().check(published)
        for arm in self.trained().values():
            # What the method or graph cannot be, before any data are read or any process is started.
            arm.network(InProcess(arm.workers), 0)
            arm.built()


def train(settings: Settings, part: arms.Part) -> dict[str, Any]:
    """One arm from one seed, in this process, in several, or under torchrun; its numbers."""
    arm = settings.arms[part.arm]
    given = (settings.model_dump(exclude_none=True), part.arm, part.seed, str(part.path))
    part.folder.rewrite_metrics([])
    if arm.workers > 1 and workers.under_torchrun():
        name = f"{part.arm}-{part.seed}"
        with closing(workers.from_environment(arm.workers, name=name, patience=settings.patience)) as transport:
            found = program(transport, *given)
    elif arm.workers > 1 and settings.processes > 1:
        found = _launched(settings, arm, given)
    else:
        found = program(InProcess(arm.workers), *given)
    told.info("%s: %.2f %% mean test accuracy", part.label, found["accuracy"])
    return found


def _launched(settings: Settings, arm: NetworkArm, given: tuple[Any, ...]) -> dict[str, Any]:
    launched = workers.launch(
        program, arm.workers, settings.processes, *given, restarts=settings.restarts, patience=settings.patience
    )
    for process, code in launched.deaths:
        log.warning("process %d ended with code %d; the others went on", process, code)
    found = [result for result in launched.results if result is not None]
    if not found:
        raise InputError("All processes of the network were lost.", "Look at what they printed, and start again.")
    return found[0]


def program(transport: Transport, settings: dict[str, Any], name: str, seed: int, place: str) -> dict[str, Any]:
    """What each process does: it hosts its workers, who read their own shards only.

    Args:
        transport: to the others.
        settings: as `Settings` dumps them.
        name: of the arm.
        seed: of all that is random.
        place: folder of this arm and seed; the process of worker 0 writes there, and each its workers' checkpoints.

    Returns:
        The arm's numbers, the same in every process.
    """
    asked = parse(Settings, settings, "the settings of a process")
    arm, training, part = asked.arms[name], asked.training, RunFolder(Path(place))
    splits = asked.data.splits()
    parts = workers.shards(splits.train.labels, arm.workers, arm.split, seed=seed)
    joined = arm.network(transport, seed)
    problem = workers.Classification(
        build_network(asked.model, splits, seed), splits.train, {worker: parts[worker] for worker in joined.local},
        batch_size=arm.batch_size or training.batch_size, weight_decay=training.weight_decay,
        exact=training.exact or not joined.alone, statistics=training.statistics, seed=seed,
    )  # fmt: skip

    def watched(x: Tensor) -> dict[str, Tensor]:
        accuracy, loss = problem.evaluate(x, splits.validation)
        return {"accuracy": accuracy, "loss": loss}

    trained = workers.train(
        joined, arm.built(), problem, arm.rounds or training.rounds,
        evaluate=watched, every=arm.every or training.every,
        observe=part.record if 0 in joined.local else None,
        folder=part.path, checkpoint_every=0 if joined.alone else training.every,
        resume=isinstance(transport, Processes) and transport.generation > 0,
    )  # fmt: skip
    with joined.uncounted():
        middle = joined.average(trained.x)[:1]
    each, how = _measured(problem, trained.x, splits.test)
    of_mean = problem.evaluate(middle, splits.test)[0]
    # Of workers that are gone there is no number.
    test = [100 * value for value in joined.gather(each).tolist() if value == value]
    failed = [COLLAPSES[round(value)] for value in joined.gather(how).tolist() if value == value]
    last = trained.rows[-1]
    return {
        "accuracy": statistics.fmean(test),
        "worst": min(test),
        "best": max(test),
        "mean_model": 100 * float(of_mean[0]),
        "validation": 100 * statistics.fmean(value for value in last["accuracy"] if value is not None),
        "distance": last["distance"],
        "bytes": last["bytes"],
        "rounds": last["round"],
        "seconds": last["seconds"],
        "gap": workers.spectral_gap(workers.mixing_matrix(joined.graph, arm.mixing)),
        "skew": workers.label_skew(splits.train.labels, parts),
        "workers": test,
        "collapsed": of_several(failed, "workers"),
        "digest": trained.digests()[0] if 0 in joined.local else None,
        "note": splits.train.note,
    }


def _measured(problem: workers.Classification, x: Tensor, data: Dataset) -> tuple[Tensor, Tensor]:
    """Of each local worker's network the accuracy in [0, 1], and how it has collapsed, as a place in `COLLAPSES`."""
    found = [evaluate(problem.module(row, worker), data) for row, worker in zip(x, problem.local, strict=True)]
    how = torch.tensor([COLLAPSES.index(one.collapsed) for one in found])
    return torch.tensor([one.accuracy for one in found], dtype=torch.float64), how


def outcome(settings: Settings, folder: RunFolder, results: Results, published: Rows) -> Outcome:
    """Set the table and draw."""
    columns = [
        Column("accuracy", "mean accuracy %"), Column("worst", "worst worker %"), Column("mean_model", "mean model %"),
        Column("distance", "distance", 3), Column("rounds", "rounds", 0, spread=False), Column("seconds", "seconds", 1),
    ]  # fmt: skip
    lead = lambda name: {"graph": (arm := settings.arms[name]).title, "method": arm.method, "split": arm.split}
    last = lambda name: {
        "MB sent": f"{tables.mean(results[name], 'bytes') / 1e6:.4g}",
        "spectral gap": f"{results[name][0]['gap']:.4f}",
        **published_row(name, settings.arms[name].published, published),
    }
    rows = tables.arm_rows(results, columns, lead=lead, last=last)
    values = tables.means(results)
    values |= _compared(results)
    note = next((found[0]["note"] for found in results.values() if found[0]["note"]), "")
    marks = {row["arm"]: row["published accuracy"] for row in rows if "published accuracy" in row}
    return Outcome(rows, values, _plots(settings, folder, results, marks), [note])


def _compared(results: Results) -> dict[str, float]:
    """What arms lose, in points, and save, in bytes, against the reference of their comparison.

    References are the arms "central"; "SPLIT-none" for "SPLIT-COMPRESSOR"; "mean-SPLIT" for "GRAPH-SPLIT".
    """
    found: dict[str, float] = {}
    for name, ours in results.items():
        first, _, last = name.rpartition("-")
        for kind, reference in {"central": "central", "none": f"{first}-none", "mean": f"mean-{last}"}.items():
            theirs = results.get(reference)
            if reference == name or theirs is None:
                continue
            below = [two["accuracy"] - one["accuracy"] for one, two in zip(ours, theirs, strict=True)]
            found |= tables.with_error(f"{name}.below_{kind}", below)
            if tables.mean(ours, "bytes") and tables.mean(theirs, "bytes"):
                found[f"{name}.fewer_bytes"] = tables.mean(theirs, "bytes") / tables.mean(ours, "bytes")
    return found


def _plots(settings: Settings, folder: RunFolder, results: Results, published: dict[str, float]) -> dict[str, Path]:
    """For few arms a page each and their curves; for many, where their workers end."""
    drawn = settings.trained()
    curves = {arm: seeds[0] for arm, seeds in arms.records_of(settings, folder).items()}
    if not all(curves.values()):
        # Under torchrun the process of worker 0 alone keeps the measurements, and draws.
        return {}
    place = folder.path / "plots"
    if len(drawn) > MANY:
        spread = {name: [value for result in found for value in result["workers"]] for name, found in results.items()}
        return {"where workers end": worker_figures.spread(place / "spread.svg", spread)}
    plots = {}
    if len(drawn) > 1:
        plots["accuracy by round and by bytes"] = worker_figures.comparison(place / "comparison.svg", curves, published)
    for name, arm in drawn.items():
        if arm.workers == 1 or len(drawn) > FEW:
            continue
        title = f"{arm.method} on {arm.title} workers, {arm.split} shards"
        title = title if name == arm.method else f"{name}: {title}"
        built, accuracy = workers.graph(arm.joined, arm.workers), results[name][0]["workers"]
        plots[name] = worker_figures.overview(place / f"{name}.svg", built, curves[name], accuracy, title)
    return plots
