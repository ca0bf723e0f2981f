"""The engine of arms: independent parts of a run, each trained once, in this process, in several, or on many machines.

A part is an arm from one seed. It has a folder of its own in the run's, where ``arm.json`` says that it is done. Who trains a
part holds a claim on its folder (`gracile.core.claims`), so any number of processes may share a run: each takes what is free,
a dead one's part is taken up from its checkpoint, and who finds all parts done sets the table.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

import torch
from pydantic import Field

from gracile.core.claims import held, take
from gracile.core.errors import CollapseWarning, InputError, MissingDependencyError, pick
from gracile.core.files import write_json
from gracile.core.provenance import environment
from gracile.core.runs import RunFolder, part_name
from gracile.recipes.kinds import Kind, Outcome, kind
from gracile.recipes.schema import Strict, parse
from gracile.recipes.settings import loaded
from gracile.recipes.tables import published_row

log = logging.getLogger("gracile")

RESULT, FINGERPRINT, ENVIRONMENT = "arm.json", "fingerprint.json", "environment.json"
# Seconds between looks at a part that another process holds; how often parts whose process was killed are started anew;
# seconds a cluster has to answer.
POLL, RESTARTS, ANSWER = 1.0, 3, 30
# Training draws from the process's own generators: two parts in threads of one process would take each other's draws.
ONE_AT_A_TIME = threading.Lock()
# What of a part's place tells whether it was trained where the table is set.
PLACES = {
    "commit": "at commit {:.12}",
    "processor": "on {}",
    "device": "on the device {}",
    "threads": "with {} threads",
}


class Arm(Strict):
    """What one arm of a recipe says in every kind.

    Attributes:
        published: the leading cells of the published row that it answers to.
    """

    published: list[str | float] = Field(default_factory=list)


AnyArm = TypeVar("AnyArm", bound=Arm)


class Parts(Strict):
    """Settings of a kind whose runs have parts."""

    def names(self) -> list[str]:
        """The arms that are trained, those that others need before these."""
        raise AttributeError(f"{type(self).__name__} does not name its arms")

    def seeds_of(self, arm: str) -> list[int]:
        """What an arm is trained from."""
        raise AttributeError(f"{type(self).__name__} does not name its seeds")

    def needs(self, arm: str) -> list[str]:
        """The arms whose part of the same seed must be done first."""
        return []

    def check(self, published: list[dict[str, Any]]) -> None:
        """Refuse, before anything is trained, what cannot be.

        Args:
            published: the recipe's published rows.

        Raises:
            InputError: no arm or seed, a name that cannot be a folder's, or what the kind adds.
        """
        if not self.names() or not all(self.seeds_of(arm) for arm in self.names()):
            raise InputError("The recipe has no arm or no seed.", "Give at least one of each.")
        for arm in self.names():
            part_name(arm, 0, self.seeds_of(arm))

    def folder_of(self, arm: str, seed: int) -> str:
        """The name of a part's folder."""
        return part_name(arm, seed, self.seeds_of(arm))


class ArmSettings(Parts, Generic[AnyArm]):
    """Settings of a kind with a table of arms.

    Attributes:
        arms: by name.
        leave_out: arms that a smaller size does without.
        seeds: each arm is trained once from each; mean and spread are over them.
    """

    arms: dict[str, AnyArm]
    leave_out: list[str] = Field(default_factory=list)
    seeds: list[int] = Field(default_factory=lambda: [0])

    def trained(self) -> dict[str, AnyArm]:
        """The arms without those that this size leaves out.

        Raises:
            InputError: an arm that is left out is not there.
        """
        for name in self.leave_out:
            pick(self.arms, name, "arm")
        return {name: arm for name, arm in self.arms.items() if name not in self.leave_out}

    def names(self) -> list[str]:
        return list(self.trained())

    def seeds_of(self, arm: str) -> list[int]:
        return self.seeds

    def check(self, published: list[dict[str, Any]]) -> None:
        super().check(published)
        for name, arm in self.trained().items():
            published_row(name, arm.published, published)


@dataclass(frozen=True)
class Part:
    """An arm from one seed.

    Attributes:
        arm: its name.
        seed: its seed.
        path: its folder.
        shown: whether its progress may be shown; not where several are trained beside each other.
        notes: sentences its reader needs; what is added while it is trained is kept with its numbers.
    """

    arm: str
    seed: int
    path: Path
    shown: bool = True
    notes: list[str] = field(default_factory=list)

    @property
    def folder(self) -> RunFolder:
        """The same as a run's folder."""
        return RunFolder(self.path)

    @property
    def label(self) -> str:
        """What the log and the progress bar call it."""
        return f"{self.arm}, seed {self.seed}"

    @property
    def done(self) -> bool:
        """Whether its numbers are there."""
        return (self.path / RESULT).exists()

    def numbers(self) -> dict[str, Any]:
        """What was found of it, once it is done."""
        return json.loads((self.path / RESULT).read_text(encoding="utf-8"))

    def beside(self, settings: Parts, arm: str) -> Part:
        """Another arm's part from the same seed."""
        return Part(arm, self.seed, self.path.with_name(settings.folder_of(arm, self.seed)))


class ArmKind(Kind, Protocol):
    """A kind's module whose `Settings` are `Parts`."""

    Settings: type[Parts]

    def train(self, settings: Any, part: Part) -> dict[str, Any]:
        """Train one part, or what is left of it; its numbers, as JSON values."""
        ...

    def outcome(
        self,
        settings: Any,
        folder: RunFolder,
        results: dict[str, list[dict[str, Any]]],
        published: list[dict[str, Any]],
    ) -> Outcome:
        """Set the table.

        Args:
            settings: an instance of the kind's `Settings`.
            folder: the run's.
            results: arm to its parts' numbers, one a seed.
            published: the recipe's published rows, possibly none.
        """
        ...


@dataclass(frozen=True)
class Spread:
    """Which parts are trained, and where.

    Attributes:
        only: ``ARM`` or ``ARM:SEED``, with what they need; all parts if empty.
        jobs: processes on this machine, which share its threads.
        cluster: address of a Dask scheduler, such as ``tcp://host:8786``, whose workers see the run's folder.
    """

    only: Sequence[str] = ()
    jobs: int = 1
    cluster: str | None = None


def all_parts(settings: Parts, folder: RunFolder, *, shown: bool = True) -> list[Part]:
    """Every part of a run, those that others need before these."""
    return [
        Part(arm, seed, folder.path / settings.folder_of(arm, seed), shown)
        for arm in settings.names()
        for seed in settings.seeds_of(arm)
    ]


def train_parts(name: str, settings: Parts, folder: RunFolder, spread: Spread) -> list[str]:
    """Train what is not done yet.

    Args:
        name: of the kind.
        settings: checked.
        folder: the run's.
        spread: which parts, and where.

    Returns:
        the folders' names of parts that are still to be done, by others or later.

    Raises:
        InputError: `spread` names no part, or a number of processes below 1.
        MissingDependencyError: a cluster without Dask.
    """
    if spread.jobs < 1:
        raise InputError(f"jobs={spread.jobs} processes cannot train.", "Ask for 1 or more.")
    alone = spread.jobs == 1 and spread.cluster is None
    parts = all_parts(settings, folder, shown=alone)
    chosen = _chosen(settings, parts, spread.only)
    if alone:
        _train_here(cast(ArmKind, kind(name)), settings, chosen)
    else:
        _train_elsewhere(name, settings, folder, chosen, spread)
    return [part.path.name for part in parts if not part.done]


def results_of(settings: Parts, folder: RunFolder) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """The numbers of a run whose parts are all done: arm to one table a seed; and what their readers must know."""
    results: dict[str, list[dict[str, Any]]] = {}
    notes: list[str] = []
    parts = all_parts(settings, folder)
    for part in parts:
        numbers = part.numbers()
        notes += [note for note in numbers.pop("notes", []) if note not in notes]
        results.setdefault(part.arm, []).append(numbers)
    return results, notes + trained_elsewhere(parts)


def _chosen(settings: Parts, parts: list[Part], only: Sequence[str]) -> list[Part]:
    """The parts asked for and what they need, in the order of training."""
    by_place = {(part.arm, part.seed): part for part in parts}
    wanted: list[tuple[str, int]] = [] if only else list(by_place)
    for asked in only:
        arm, colon, seed = asked.rpartition(":") if asked not in settings.names() else (asked, "", "")
        pick(dict.fromkeys(settings.names()), arm if colon else asked, "arm")
        seeds = {str(one): one for one in settings.seeds_of(arm)}
        wanted += (
            [(arm, pick(seeds, seed, f"seed of the arm '{arm}'"))] if colon else [(arm, s) for s in seeds.values()]
        )
    for arm, seed in wanted:
        # Grows while it is walked through: what is needed may need others.
        wanted += [(need, seed) for need in settings.needs(arm) if (need, seed) not in wanted]
    return [part for place, part in by_place.items() if place in wanted]


def _ready(settings: Parts, part: Part) -> bool:
    return all(part.beside(settings, need).done for need in settings.needs(part.arm))


def _train_here(module: ArmKind, settings: Parts, parts: list[Part]) -> None:
    """One after another; what others hold is left to them, unless it is needed here."""
    place = environment()
    left = [part for part in parts if not part.done]
    while left:
        before = len(left)
        for part in left:
            if _ready(settings, part):
                _train_part(module, settings, part, place)
        left = [part for part in left if not part.done]
        if len(left) == before:
            if all(_ready(settings, part) for part in left):
                return
            time.sleep(POLL)


def _train_part(module: ArmKind, settings: Parts, part: Part, place: Mapping[str, Any]) -> None:
    """Train a part unless another process holds it."""
    claim = None if part.done else take(part.path)
    if claim is None:
        return
    with claim, heeded_warnings() as heard:
        if part.done:
            return
        part.notes.clear()
        write_json(part.path / ENVIRONMENT, place)
        numbers = module.train(settings, part)
        notes = [*part.notes, *heard]
        write_json(part.path / RESULT, numbers | ({"notes": notes} if notes else {}))


def train_one(name: str, settings: Mapping[str, Any], path: Path, arm: str, seed: int, threads: int) -> None:
    """What a process of its own does: one part, by whoever trains it.

    Args:
        name: of the kind.
        settings: as its `Settings` dump them.
        path: of the part's folder.
        arm: its arm.
        seed: its seed.
        threads: of torch.
    """
    part = Part(arm, seed, path, shown=False)
    with ONE_AT_A_TIME:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        module = cast(ArmKind, kind(name))
        handler = part.folder.log_to_file()
        try:
            read = cast(Parts, parse(module.Settings, dict(settings), f"the settings of {part.label}"))
            while not part.done:
                _train_part(module, read, part, environment())
                if not part.done:
                    time.sleep(POLL)
        finally:
            logging.getLogger("gracile").removeHandler(handler)
            handler.close()
            loaded.cache_clear()
            torch.set_num_threads(before)


def _train_elsewhere(name: str, settings: Parts, folder: RunFolder, parts: list[Part], spread: Spread) -> None:
    """In processes of joblib, on this machine or a cluster's; those that others need first."""
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    threads = max(1, torch.get_num_threads() // (1 if spread.cluster else spread.jobs))
    # None beside values: the schema's defaults need not be None.
    dumped = settings.model_dump(exclude_none=True)
    ask = partial(delayed(train_one), name, dumped)
    left, died = [part for part in parts if not part.done], 0
    with _backend(spread):
        while left:
            ready = [part for part in left if _ready(settings, part)]
            log.info(
                "%s at once: %s", "cluster" if spread.cluster else spread.jobs, ", ".join(p.path.name for p in ready)
            )
            try:
                Parallel(batch_size=1, pre_dispatch="all")(
                    ask(part.path.absolute(), part.arm, part.seed, threads) for part in ready
                )
            except TerminatedWorkerError:
                died += 1
                if died > RESTARTS:
                    raise InputError(
                        f"Processes of this run were killed {died} times.",
                        "Perhaps memory is short: ask for fewer jobs, and go on with --resume.",
                    ) from None
                log.warning("A process was killed; its part is taken up from its checkpoint.")
            left = [part for part in left if not part.done]


@contextlib.contextmanager
def _backend(spread: Spread) -> Iterator[None]:
    from joblib import parallel_config

    if spread.cluster is None:
        threads = max(1, torch.get_num_threads() // spread.jobs)
        with parallel_config(backend="loky", n_jobs=spread.jobs, inner_max_num_threads=threads):
            yield
        return
    try:
        from distributed import Client
    except ImportError:
        raise MissingDependencyError(
            "A cluster needs Dask, which is not installed.", "Install it: pip install 'gracile[cluster]'"
        ) from None
    try:
        client = Client(spread.cluster, timeout=ANSWER)
    except (OSError, ValueError) as error:
        raise InputError(
            f"No Dask scheduler answers at {spread.cluster}: {error}.", "Start one, as with: dask scheduler"
        ) from None
    with client, parallel_config(backend="dask", wait_for_workers_timeout=60):
        yield


@contextlib.contextmanager
def heeded_warnings() -> Iterator[list[str]]:
    """Send warnings to the log and collect those of the methods, which belong beside the result."""
    heard: list[str] = []

    def show(message: Warning | str, category: type[Warning], *_: Any) -> None:
        log.warning("%s", message)
        if issubclass(category, CollapseWarning):
            heard.append(str(message))

    with warnings.catch_warnings():
        # Kept with the result whatever filters the process has.
        warnings.simplefilter("always", CollapseWarning)
        warnings.showwarning = show  # pyright: ignore[reportAttributeAccessIssue] - restored by catch_warnings
        yield heard


# Parts that another run has trained already.


def fingerprint(settings: Mapping[str, Any]) -> str:
    """What tells whether two parts were trained alike."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def take_over(part: Part, mark: str, files: Sequence[str]) -> None:
    """Copy a part that another run beside this one has trained from the very same settings, if there is one.

    Args:
        part: has nothing yet.
        mark: its fingerprint, as `leave_mark` left the other's.
        files: of a part, the first last of all to be copied: it says that the training is whole.
    """
    for file in sorted(part.path.parent.parent.glob(f"*/*/{FINGERPRINT}")):
        other = file.parent
        if other == part.path or not (other / files[0]).exists() or json.loads(file.read_text())["fingerprint"] != mark:
            continue
        log.info("%s is taken over from %s", part.path.name, other)
        for name in (*reversed(files[1:]), FINGERPRINT, ENVIRONMENT, files[0]):
            if (other / name).exists():
                shutil.copyfile(other / name, part.path / name)
        return


def leave_mark(part: Part, mark: str) -> None:
    """Say from which settings this part was trained."""
    write_json(part.path / FINGERPRINT, {"fingerprint": mark})


def trained_elsewhere(parts: Iterable[Part]) -> list[str]:
    """A sentence for each other version, processor or number of threads that trained some of these parts."""
    now, found = environment(), {}
    for part in parts:
        file = part.path / ENVIRONMENT
        then = json.loads(file.read_text(encoding="utf-8")) if file.exists() else now
        for key, words in PLACES.items():
            if then.get(key) != now[key]:
                found.setdefault(words.format(str(then.get(key))), []).append(part.path.name)
    return [f"trained {where}: {', '.join(names)}" for where, names in found.items()]


def still_trained(settings: Parts, folder: RunFolder) -> bool:
    """Whether some process works on a part of this run."""
    return any(held(part.path) for part in all_parts(settings, folder) if not part.done)


Kept = TypeVar("Kept")


def kept(file: Path, make: Callable[[], Kept]) -> Kept:
    """What a JSON file holds; made and written where it is not there yet."""
    if not file.exists():
        write_json(file, make())
    return json.loads(file.read_text(encoding="utf-8"))
