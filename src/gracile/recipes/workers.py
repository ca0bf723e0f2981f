"""The kind of recipe that trains one network over many workers: arms differ in graph, method, split and messages."""

from __future__ import annotations

import json
import logging
import statistics
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor

from gracile.core.errors import InputError
from gracile.core.files import write_json
from gracile.core.runs import RunFolder
from gracile.recipes import workers_pictures as pictures
from gracile.recipes.arms import DataSettings, ModelSettings, build_network, load_data
from gracile.recipes.kinds import Outcome
from gracile.recipes.schema import Strict, parse
from gracile.workers import (
    Classification,
    InProcess,
    Processes,
    Transport,
    from_environment,
    graph,
    label_skew,
    launch,
    method,
    mixing_matrix,
    network,
    shards,
    spectral_gap,
    train,
    under_torchrun,
)

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
    """

    rounds: int
    batch_size: int = 32
    weight_decay: float = 0.0
    every: int = 10
    exact: bool = False


class Arm(Strict):
    """One network of workers.

    Attributes:
        graph: a row of `gracile.workers.GRAPHS`.
        edges: pairs of workers, in place of a family.
        workers: how many; 1 trains in one place.
        rule: of the mixing matrix.
        split: who holds what.
        method: a row of `gracile.workers.METHODS`.
        options: what it takes.
        drop: share of messages lost.
        rounds, batch_size, every: in place of the recipe's.
        published: the leading cells of the published row that this arm answers to.
    """

    graph: str = "ring"
    edges: list[list[int]] | None = None
    workers: int = 6
    rule: str = "metropolis"
    split: str = "iid"
    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    drop: float = 0.0
    rounds: int | None = None
    batch_size: int | None = None
    every: int | None = None
    published: list[str | float] = Field(default_factory=list)


class Settings(Strict):
    """What a recipe of this kind holds.

    Attributes:
        seeds: each arm runs once from each.
        processes: real processes a network is spread over; 1 hosts all workers in this one. Under torchrun it is its
            world size.
        patience: seconds a late message is waited for in real processes; without, as long as it takes.
        restarts: how many killed processes are started again.
    """

    data: DataSettings
    model: ModelSettings = ModelSettings()
    training: RoundSettings
    arms: dict[str, Arm]
    seeds: list[int] = Field(default_factory=lambda: [0])
    processes: int = 1
    patience: float | None = None
    restarts: int = 0


def execute(settings: Settings, folder: RunFolder, published: list[dict[str, Any]]) -> Outcome:
    """Run every arm from every seed that is not done yet, and set the table."""
    if not settings.arms or not settings.seeds:
        raise InputError("The recipe has no arm or no seed.", "Give at least one of each.")
    results: dict[str, list[dict[str, Any]]] = {}
    for name, arm in settings.arms.items():
        _check(arm)
        for seed in settings.seeds:
            part = folder.part(_part(settings, name, seed))
            done = part.path / "arm.json"
            if not done.exists():
                result = _run_arm(settings, name, seed, part)
                write_json(done, result)
                log.info("%s, seed %d: %.2f %% mean test accuracy", name, seed, result["accuracy"])
            results.setdefault(name, []).append(json.loads(done.read_text()))
    rows = [_table_row(name, settings.arms[name], found, published) for name, found in results.items()]
    values = {
        f"{name}.{key}": statistics.fmean(result[key] for result in found)
        for name, found in results.items()
        for key, value in found[0].items()
        if isinstance(value, (int, float))
    }
    values |= _compared(values)
    notes = [found[0]["note"] for found in results.values() if found[0]["note"]][:1]
    marks = {row["arm"]: row["published accuracy"] for row in rows if "published accuracy" in row}
    return Outcome(rows, values, _plots(settings, folder, results, marks), notes)


def _check(arm: Arm) -> None:
    """Refuse before any data are read, or any process is started, what the method or graph cannot be."""
    _network(arm, InProcess(arm.workers), 0)
    method(arm.method, **arm.options)


def _network(arm: Arm, channel: Transport, seed: int):
    given = arm.graph if arm.edges is None else [tuple(pair) for pair in arm.edges]
    return network(given, arm.workers, rule=arm.rule, drop=arm.drop, seed=seed, transport=channel)


def _run_arm(settings: Settings, name: str, seed: int, part: RunFolder) -> dict[str, Any]:
    """One arm from one seed, in this process, in several, or under torchrun; its numbers."""
    arm = settings.arms[name]
    given = (settings.model_dump(exclude_none=True), name, seed, str(part.path))
    part.rewrite_metrics([])
    if arm.workers == 1 or (settings.processes == 1 and not under_torchrun()):
        return program(InProcess(arm.workers), *given)
    if under_torchrun():
        channel = from_environment(arm.workers, name=f"{name}-{seed}", patience=settings.patience)
        try:
            return program(channel, *given)
        finally:
            channel.close()
    launched = launch(
        program, arm.workers, settings.processes, *given, restarts=settings.restarts, patience=settings.patience
    )
    for process, code in launched.deaths:
        log.warning("process %d ended with code %d; the others went on", process, code)
    found = [result for result in launched.results if result is not None]
    if not found:
        raise InputError("All processes of the network were lost.", "Look at what they printed, and start again.")
    return found[0]


def program(channel: Transport, settings: dict[str, Any], name: str, seed: int, place: str) -> dict[str, Any]:
    """What each process does: it hosts its workers, who read their own shards only.

    Args:
        channel: to the others.
        settings: as `Settings` dumps them.
        name: of the arm.
        seed: of all that is random.
        place: folder of this arm and seed; the process of worker 0 writes there, and each its workers' checkpoints.

    Returns:
        The arm's numbers, the same in every process.
    """
    asked = parse(Settings, settings, "the settings of a process")
    arm, training, part = asked.arms[name], asked.training, RunFolder(Path(place))
    splits = load_data(asked.data)
    parts = shards(splits.train.labels, arm.workers, arm.split, seed=seed)
    joined = _network(arm, channel, seed)
    problem = Classification(
        build_network(asked.model, splits, seed),
        splits.train,
        {worker: parts[worker] for worker in joined.local},
        batch_size=arm.batch_size or training.batch_size,
        weight_decay=training.weight_decay,
        exact=training.exact or not joined.alone,
        seed=seed,
    )

    def watched(x: Tensor) -> dict[str, Tensor]:
        accuracy, loss = problem.evaluate(x, splits.validation)
        return {"accuracy": accuracy, "loss": loss}

    trained = train(
        joined, method(arm.method, **arm.options), problem, arm.rounds or training.rounds,
        evaluate=watched, every=arm.every or training.every,
        observe=part.record if 0 in joined.local else None,
        folder=part.path, checkpoint_every=0 if joined.alone else training.every,
        resume=isinstance(channel, Processes) and channel.generation > 0,
    )  # fmt: skip
    with joined.uncounted():
        middle = joined.average(trained.x)[:1]
    each, of_mean = problem.evaluate(trained.x, splits.test)[0], problem.evaluate(middle, splits.test)[0]
    test = [100 * value for value in joined.gather(each).tolist() if value == value]
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
        "gap": spectral_gap(mixing_matrix(joined.graph, arm.rule)),
        "skew": label_skew(splits.train.labels, parts),
        "workers": test,
        "digest": trained.digests()[0] if 0 in joined.local else None,
        "note": splits.train.note,
    }


def _part(settings: Settings, name: str, seed: int) -> str:
    return name if len(settings.seeds) == 1 else f"{name}-seed{seed}"


def _compared(values: dict[str, float]) -> dict[str, float]:
    """What arms lose, in points, and save, in bytes, against the reference of their comparison.

    References are the arms "central"; "SPLIT-none" for "SPLIT-COMPRESSOR"; "mean-SPLIT" for "GRAPH-SPLIT".
    """
    found = {}
    for name in [key.removesuffix(".accuracy") for key in values if key.endswith(".accuracy")]:
        first, _, last = name.rpartition("-")
        for kind, reference in {"central": "central", "none": f"{first}-none", "mean": f"mean-{last}"}.items():
            if reference != name and f"{reference}.accuracy" in values:
                found[f"{name}.below_{kind}"] = values[f"{reference}.accuracy"] - values[f"{name}.accuracy"]
                if values[f"{name}.bytes"] and values[f"{reference}.bytes"]:
                    found[f"{name}.fewer_bytes"] = values[f"{reference}.bytes"] / values[f"{name}.bytes"]
    return found


def _table_row(name: str, arm: Arm, found: list[dict[str, Any]], published: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"arm": name, "graph": graph_name(arm), "method": arm.method, "split": arm.split}
    titles = {
        "accuracy": ("mean accuracy %", 2),
        "worst": ("worst worker %", 2),
        "mean_model": ("mean model %", 2),
        "distance": ("distance", 3),
        "rounds": ("rounds", 0),
        "seconds": ("seconds", 1),
    }
    for key, (title, digits) in titles.items():
        values = [result[key] for result in found]
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 and key != "rounds" else ""
        row[title] = f"{statistics.fmean(values):.{digits}f}{spread}"
    row["MB sent"] = f"{statistics.fmean(result['bytes'] for result in found) / 1e6:.4g}"
    row["spectral gap"] = f"{found[0]['gap']:.4f}"
    for answer in published:
        if arm.published and list(answer.values())[: len(arm.published)] == arm.published:
            row |= {f"published {key}": value for key, value in answer.items() if isinstance(value, (int, float))}
    return row


def graph_name(arm: Arm) -> str:
    """What the table calls an arm's graph."""
    return ("one place" if arm.workers == 1 else arm.graph if arm.edges is None else "edges") + (
        f", {arm.workers}" if arm.workers > 1 else ""
    )


def _plots(
    settings: Settings, folder: RunFolder, results: dict[str, list[dict[str, Any]]], published: dict[str, float]
) -> dict[str, Path]:
    """For few arms a page each and their curves; for many, where their workers end."""
    plots = {}
    curves = {name: folder.part(_part(settings, name, settings.seeds[0])).metrics() for name in settings.arms}
    if not all(curves.values()):
        # Under torchrun the process of worker 0 alone keeps the measurements, and draws.
        return {}
    if len(settings.arms) > MANY:
        spread = {name: [value for result in found for value in result["workers"]] for name, found in results.items()}
        path = pictures.spread(folder.path / "plots" / "spread.png", spread)
        return {"where workers end": path.relative_to(folder.path)}
    if len(settings.arms) > 1:
        path = pictures.comparison(folder.path / "plots" / "comparison.png", curves, published)
        plots["accuracy by round and by bytes"] = path.relative_to(folder.path)
    for name, arm in settings.arms.items():
        if arm.workers == 1 or len(settings.arms) > FEW:
            continue
        built = graph(arm.graph if arm.edges is None else [tuple(pair) for pair in arm.edges], arm.workers)
        path = folder.path / "plots" / f"{name}.png"
        title = f"{arm.method} on {graph_name(arm)} workers, {arm.split} shards"
        title = title if name == arm.method else f"{name}: {title}"
        pictures.overview(path, built, curves[name], results[name][0]["workers"], title)
        plots[name] = path.relative_to(folder.path)
    return plots
