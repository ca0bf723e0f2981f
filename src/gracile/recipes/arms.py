"""Arms: what recipes say of them, their parts and folders, what is kept of them, and parts that other runs trained already.

A part is an arm from one seed, independent of the others. It has a folder of its own in the run's, where ``arm.json`` says that
it is done. `gracile.recipes.engine` trains them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pydantic import Field

from gracile.core.errors import CollapseWarning, InputError, matching
from gracile.core.files import write_json
from gracile.core.provenance import environment, places_apart
from gracile.core.runs import RunFolder, part_name
from gracile.recipes.kinds import Outcome
from gracile.recipes.schema import Strict
from gracile.recipes.tables import Results, Rows, published_row

log = logging.getLogger("gracile")

RESULT, FINGERPRINT, ENVIRONMENT = "arm.json", "fingerprint.json", "environment.json"


class Arm(Strict):
    """What one arm of a recipe says in every kind.

    Attributes:
        published: the leading cells of the published row that it answers to.
    """

    published: list[str | float] = Field(default_factory=list)


AnyArm = TypeVar("AnyArm", bound=Arm)


class Parts(Strict, ABC):
    """Settings of a kind whose runs have parts."""

    @abstractmethod
    def names(self) -> list[str]:
        """The arms that are trained, those that others need before these."""

    @abstractmethod
    def seeds_of(self, arm: str) -> list[int]:
        """What an arm is trained from."""

    def needs(self, arm: str, seed: int) -> list[tuple[str, int]]:
        """The parts that must be done before this one, as arm and seed."""
        return []

    def check(self, published: Rows) -> None:
        """Refuse, before anything is trained, what cannot be.

        Args:
            published: the recipe's published rows.

        Raises:
            InputError: no arm or seed, a seed given twice, a name that cannot be a folder's, or what the kind adds.
        """
        if not self.names() or not all(self.seeds_of(arm) for arm in self.names()):
            raise InputError("The recipe has no arm or no seed.", "Give at least one of each.")
        for arm in self.names():
            check_seeds(self.seeds_of(arm))
            part_name(arm, 0, self.seeds_of(arm))

    def rehearse(self, *, timed: bool = False) -> Rows:
        """Build, without training, what can be built beforehand, so that what cannot be trained is refused before a run begins.

        Args:
            timed: take a few steps of each arm, to tell how long it would take.

        Returns:
            a row for each arm: ``arm``, ``seeds``, and what the kind knows; ``seconds`` for all seeds.
        """
        return [{"arm": arm, "seeds": len(self.seeds_of(arm))} for arm in self.names()]

    def folder_of(self, arm: str, seed: int) -> str:
        """The name of a part's folder."""
        return part_name(arm, seed, self.seeds_of(arm))


def check_seeds(seeds: Sequence[int], example: str = "--seeds 0,1") -> None:
    """Refuse a seed given twice: one result counted as two would make the spread too small.

    Args:
        seeds: of an arm, or of its tries.
        example: how they are given.

    Raises:
        InputError: there is one.
    """
    for seed, count in Counter(seeds).items():
        if count > 1:
            raise InputError(f"The seed {seed} is given twice.", f"Give each seed once, such as {example}.")


class Seeded(Parts):
    """Settings of a kind whose arms are all trained from the same seeds.

    Attributes:
        seeds: each arm is trained once from each; mean and spread are over them.
    """

    seeds: list[int] = Field(default_factory=lambda: [0])

    def seeds_of(self, arm: str) -> list[int]:
        return self.seeds


class ArmSettings(Seeded, Generic[AnyArm]):
    """Settings of a kind with a table of arms.

    Attributes:
        arms: by name.
        leave_out: arms that a smaller size does without, by name or by a pattern of names such as ``*_50``.
    """

    arms: dict[str, AnyArm]
    leave_out: list[str] = Field(default_factory=list)

    def trained(self) -> dict[str, AnyArm]:
        """The arms without those that this size leaves out.

        Raises:
            InputError: an arm that is left out is not there.
        """
        left_out: set[str] = set()
        for pattern in self.leave_out:
            left_out.update(matching(self.arms, pattern, "arm"))
        return {name: arm for name, arm in self.arms.items() if name not in left_out}

    def names(self) -> list[str]:
        return list(self.trained())

    def check(self, published: Rows) -> None:
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

    def beside(self, settings: Parts, arm: str, seed: int | None = None) -> Part:
        """Another arm's part, from the same seed if none is named."""
        seed = self.seed if seed is None else seed
        return Part(arm, seed, self.path.with_name(settings.folder_of(arm, seed)))


class ArmKind(Protocol):
    """A kind's module whose `Settings` are `Parts`."""

    Settings: type[Parts]

    def train(self, settings: Any, part: Part) -> dict[str, Any]:
        """Train one part, or what is left of it; its numbers, as JSON values."""
        ...

    def outcome(self, settings: Any, folder: RunFolder, results: Results, published: Rows) -> Outcome:
        """Set the table of a run whose parts are all done.

        Args:
            settings: an instance of the kind's `Settings`.
            folder: the run's.
            results: arm to its parts' numbers, one table per seed.
            published: the recipe's published rows, possibly none.
        """
        ...


def all_parts(settings: Parts, folder: RunFolder, *, shown: bool = True) -> list[Part]:
    """Every part of a run, those that others need before these."""
    return [
        Part(arm, seed, folder.path / settings.folder_of(arm, seed), shown)
        for arm in settings.names()
        for seed in settings.seeds_of(arm)
    ]


def records_of(settings: Parts, folder: RunFolder) -> dict[str, list[Rows]]:
    """Arm to one list of ``metrics.jsonl``'s rows a seed."""
    found: dict[str, list[Rows]] = {}
    for part in all_parts(settings, folder):
        found.setdefault(part.arm, []).append(part.folder.metrics())
    return found


def results_of(settings: Parts, folder: RunFolder) -> tuple[Results, list[str]]:
    """The numbers of a run whose parts are all done: arm to one table a seed; and what their readers must know."""
    results: Results = {}
    notes: list[str] = []
    parts = all_parts(settings, folder)
    for part in parts:
        numbers = part.numbers()
        notes += [note for note in numbers.pop("notes", []) if note not in notes]
        if numbers.get("collapsed"):
            notes.append(f"{part.label}, has collapsed: {numbers['collapsed']}.")
        results.setdefault(part.arm, []).append(numbers)
    return results, notes + trained_elsewhere(parts)


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


def _fingerprint(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def take_over(part: Part, settings: Mapping[str, Any], files: Sequence[str]) -> None:
    """Copy a part that another run beside this one has trained from the very same settings, if there is one.

    Args:
        part: has nothing yet.
        settings: all that its training depends on, as `leave_mark` was told the other's.
        files: of a part, the first last of all to be copied: it says that the training is whole.
    """
    mark = _fingerprint(settings)
    for file in sorted(part.path.parent.parent.glob(f"*/*/{FINGERPRINT}")):
        other = file.parent
        if other == part.path or not (other / files[0]).exists() or json.loads(file.read_text())["fingerprint"] != mark:
            continue
        log.info("%s is taken over from %s", part.path.name, other)
        for name in (*reversed(files[1:]), FINGERPRINT, ENVIRONMENT, files[0]):
            if (other / name).exists():
                shutil.copyfile(other / name, part.path / name)
        return


def leave_mark(part: Part, settings: Mapping[str, Any]) -> None:
    """Say from which settings this part was trained."""
    write_json(part.path / FINGERPRINT, {"fingerprint": _fingerprint(settings)})


def trained_elsewhere(parts: Iterable[Part]) -> list[str]:
    """A sentence for each other version, processor or number of threads that trained some of these parts."""
    now, found = environment(), {}
    for part in parts:
        file = part.path / ENVIRONMENT
        for place in places_apart(json.loads(file.read_text(encoding="utf-8")), now) if file.exists() else ():
            found.setdefault(place, []).append(part.path.name)
    return [f"trained {where}: {', '.join(names)}" for where, names in found.items()]
