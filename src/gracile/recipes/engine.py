"""The engine that trains a run's parts: in this process, in several, or on many machines.

Who trains a part holds a claim on its folder (`gracile.core.claims`), so any number of processes may share a run: each takes
what is free, a dead one's part is taken up from its checkpoint, and who finds all parts done sets the table.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from gracile import tracking
from gracile.core.claims import held, take
from gracile.core.console import told
from gracile.core.errors import InputError, MissingDependencyError, matching, pick
from gracile.core.files import write_json
from gracile.core.provenance import environment
from gracile.core.runs import RunFolder
from gracile.core.threads import torch_threads
from gracile.recipes.arms import ENVIRONMENT, RESULT, ArmKind, Part, Parts, all_parts, heeded_warnings
from gracile.recipes.kinds import kind
from gracile.recipes.schema import parse
from gracile.recipes.settings import loaded

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger("gracile")

# Seconds between looks at a part that another process holds; how often parts whose process was killed are started anew;
# seconds a cluster has to answer.
POLL, RESTARTS, ANSWER = 1.0, 3, 30
# Training draws from the process's own generators: two parts in threads of one process would take each other's draws.
ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Spread:
    """Which parts are trained, and where.

    Attributes:
        only: ``ARM`` or ``ARM:SEED``, with what they need; all parts if empty.
        jobs: processes on this machine, which share its threads.
        cluster: address of a Dask scheduler, such as ``tcp://host:8786``, whose workers see the run's folder.
        track: trackers that every part is shown to; see `gracile.tracking`.
    """

    only: Sequence[str] = ()
    jobs: int = 1
    cluster: str | None = None
    track: Sequence[str] = ()


def train_parts(name: str, settings: Parts, folder: RunFolder, spread: Spread) -> list[str]:
    """Train what is not done yet.

    Args:
        name: of the kind.
        settings: checked.
        folder: the run's.
        spread: which parts, and where; checked.

    Returns:
        the folders' names of parts that are still to be done, by others or later.
    """
    alone = spread.jobs == 1 and spread.cluster is None
    parts = all_parts(settings, folder, shown=alone)
    places = _chosen(settings, spread.only)
    chosen = [part for part in parts if (part.arm, part.seed) in places]
    # Perhaps trained before anybody asked for a tracker.
    before = [part for part in chosen if part.done]
    if alone:
        _train_here(cast(ArmKind, kind(name)), settings, chosen, spread.track)
    else:
        _train_elsewhere(name, settings, folder, chosen, spread)
    for part in before if spread.track else ():
        tracking.send(spread.track, _tracked(part))
    return [part.path.name for part in parts if not part.done]


def check_spread(settings: Parts, spread: Spread) -> None:
    """Refuse, before a run has a folder, parts that it has not and processes that cannot be had.

    Raises:
        InputError: `spread` names no part or a number of processes below 1, or no scheduler answers.
        MissingDependencyError: a cluster without Dask.
    """
    if spread.jobs < 1:
        raise InputError(f"{spread.jobs} processes cannot train.", "Pass jobs=1 or more.")
    _chosen(settings, spread.only)
    if spread.cluster is not None:
        _client(spread.cluster).close()


def _chosen(settings: Parts, only: Sequence[str]) -> list[tuple[str, int]]:
    """The parts asked for and what they need, as arm and seed."""
    wanted = [] if only else [(arm, seed) for arm in settings.names() for seed in settings.seeds_of(arm)]
    for asked in only:
        pattern, colon, seed = asked.partition(":")
        for arm in matching(settings.names(), pattern, "arm"):
            seeds = {str(one): one for one in settings.seeds_of(arm)}
            wanted += (
                [(arm, pick(seeds, seed, f"seed of the arm '{arm}'"))] if colon else [(arm, s) for s in seeds.values()]
            )
    for arm, seed in wanted:
        # Grows while it is walked through: what is needed may need others.
        wanted += [need for need in settings.needs(arm, seed) if need not in wanted]
    return wanted


def _ready(settings: Parts, part: Part) -> bool:
    return all(part.beside(settings, *need).done for need in settings.needs(part.arm, part.seed))


def _tracked(part: Part) -> tracking.Tracked:
    return tracking.Tracked.of(part.path.parent, part.path.name, part.arm, part.seed)


def _train_here(module: ArmKind, settings: Parts, parts: list[Part], track: Sequence[str]) -> None:
    """One after another; what others hold is left to them, unless it is needed here."""
    place = environment()
    left = [part for part in parts if not part.done]
    while left:
        before = len(left)
        for part in left:
            if _ready(settings, part):
                _train_part(module, settings, part, place, track)
        left = [part for part in left if not part.done]
        if len(left) == before:
            if all(_ready(settings, part) for part in left):
                return
            time.sleep(POLL)


def _train_part(module: ArmKind, settings: Parts, part: Part, place: Mapping[str, Any], track: Sequence[str]) -> None:
    """Train a part unless another process holds it."""
    claim = None if part.done else take(part.path)
    if claim is None:
        return
    with claim, heeded_warnings() as heard, _named(part.label):
        if part.done:
            return
        part.notes.clear()
        write_json(part.path / ENVIRONMENT, place)
        with tracking.following(track, _tracked(part)) if track else contextlib.nullcontext():
            numbers = module.train(settings, part)
            notes = [*part.notes, *heard]
            write_json(part.path / RESULT, numbers | ({"notes": notes} if notes else {}))


@contextlib.contextmanager
def _named(label: str) -> Iterator[None]:
    """Warnings in the log say whose they are."""

    def prefixed(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING and label not in record.getMessage():
            record.msg, record.args = f"{label}: {record.getMessage()}", ()
        return True

    log.addFilter(prefixed)
    try:
        yield
    finally:
        log.removeFilter(prefixed)


def train_one(
    name: str, settings: Mapping[str, Any], path: Path, arm: str, seed: int, threads: int, track: Sequence[str] = ()
) -> None:
    """What a process of its own does: one part, by whoever trains it.

    Args:
        name: of the kind.
        settings: as its `Settings` dump them.
        path: of the part's folder.
        arm: its arm.
        seed: its seed.
        threads: of torch.
        track: trackers that it is shown to.
    """
    part = Part(arm, seed, path, shown=False)
    with ONE_AT_A_TIME, torch_threads(threads), part.folder.logged():
        module = cast(ArmKind, kind(name))
        try:
            read = cast(Parts, parse(module.Settings, dict(settings), f"the settings of {part.label}"))
            while not part.done:
                _train_part(module, read, part, environment(), track)
                if not part.done:
                    time.sleep(POLL)
        finally:
            loaded.cache_clear()


def _train_elsewhere(name: str, settings: Parts, folder: RunFolder, parts: list[Part], spread: Spread) -> None:
    """In processes of joblib, on this machine or a cluster's; those that others need first."""
    from joblib import Parallel, delayed

    threads = max(1, torch.get_num_threads() // (1 if spread.cluster else spread.jobs))
    # None beside values: the schema's defaults need not be None.
    dumped = settings.model_dump(exclude_none=True)
    ask = partial(delayed(train_one), name, dumped)
    left, died = [part for part in parts if not part.done], 0
    with _backend(spread) as killed:
        while left:
            ready = [part for part in left if _ready(settings, part)]
            told.info(
                "%s at once: %s", "cluster" if spread.cluster else spread.jobs, ", ".join(p.path.name for p in ready)
            )
            try:
                # One part per task, whatever joblib would guess from how long the first ones took.
                Parallel(batch_size=1, pre_dispatch="all")(  # pyright: ignore[reportArgumentType] - it takes numbers
                    ask(part.path.absolute(), part.arm, part.seed, threads, spread.track) for part in ready
                )
            except killed:
                died += 1
                if died > RESTARTS:
                    raise InputError(
                        f"Processes of this run were killed {died} times.",
                        "Perhaps memory is short: ask for fewer jobs, and go on with --resume.",
                    ) from None
                log.warning("A process was killed; its part is taken up from its checkpoint.")
            left = [part for part in left if not part.done]


@contextlib.contextmanager
def _backend(spread: Spread) -> Iterator[type[Exception]]:
    """Where joblib's tasks go, and the error that says that a process was killed."""
    from joblib import parallel_config
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    if spread.cluster is None:
        threads = max(1, torch.get_num_threads() // spread.jobs)
        with parallel_config(backend="loky", n_jobs=spread.jobs, inner_max_num_threads=threads):
            yield TerminatedWorkerError
        return
    with _client(spread.cluster), parallel_config(backend="dask", wait_for_workers_timeout=60):
        from distributed import KilledWorker

        yield KilledWorker


def _client(address: str) -> Client:
    """What speaks with a Dask scheduler."""
    try:
        from distributed import Client
    except ImportError:
        raise MissingDependencyError(
            "A cluster needs Dask, which is not installed.", "Install it: pip install 'gracile[cluster]'"
        ) from None
    try:
        return Client(address, timeout=ANSWER)
    except (OSError, ValueError) as error:
        raise InputError(
            f"No Dask scheduler answers at {address}: {error}.", "Start one, as with: dask scheduler"
        ) from None


def still_trained(settings: Parts, folder: RunFolder) -> bool:
    """Whether some process works on a part of this run."""
    return any(held(part.path) for part in all_parts(settings, folder) if not part.done)
