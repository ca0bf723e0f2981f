"""What a tracker is: five things that it is told."""

from __future__ import annotations

import tomllib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True)
class Tracked:
    """One thing that a tracker shows as a run of its own: an arm from one seed, or the table of a whole run.

    Attributes:
        project: the recipe's name.
        group: the run folder's name, such as ``digits-1``.
        name: ``digits-1/rgsm-seed0`` for a part, the group's name for the table.
        folder: where its files are.
        settings: dotted keys to numbers, strings and booleans; of the recipe's arms only its own.
    """

    project: str
    group: str
    name: str
    folder: Path
    settings: Mapping[str, Any]

    @property
    def whole(self) -> Path:
        """The folder of the run that it belongs to."""
        return self.folder if self.name == self.group else self.folder.parent

    @staticmethod
    def of(run: Path, part: str | None = None, arm: str | None = None, seed: int | None = None) -> Tracked:
        """What a run's folder tells of one of its parts, or of itself.

        Args:
            run: the run's folder, with its ``recipe.toml``.
            part: the part's folder in it.
            arm: of the part.
            seed: of the part.
        """
        recipe = tomllib.loads((run / "recipe.toml").read_text(encoding="utf-8"))
        settings: dict[str, Any] = recipe.get("settings", {})
        arms = settings.get("arms")
        if arm is not None and isinstance(arms, dict):
            settings = {key: value for key, value in settings.items() if key != "arms"} | {"method": arms.get(arm, {})}
        own = {} if arm is None else {"arm": arm, "seed": seed}
        told = {"recipe": recipe["name"], "size": recipe.get("size", "full"), **own, **flat(settings, ".")}
        group = run.resolve().name
        return Tracked(
            recipe["name"],
            group,
            group if part is None else f"{group}/{part}",
            run if part is None else run / part,
            told,
        )


class Tracker(ABC):
    """Shows runs somewhere. One object shows one `Tracked`; to add a tracker, subclass this and add a row to ``table.py``.

    What it raises stops the tracker, with a warning, and never the training.

    Attributes:
        package: what must be importable.
        extra: the optional extra of gracile that brings it; empty where there is none.
    """

    package: ClassVar[str]
    extra: ClassVar[str] = ""

    @abstractmethod
    def begin(self, run: Tracked, earlier: str | None) -> str:
        """Open the run, or open it again after an interruption.

        Args:
            run: what will be shown.
            earlier: what `begin` returned in an earlier sitting; None in the first.

        Returns:
            what finds the run again: an identifier of the tracker's.
        """

    @abstractmethod
    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Show one record; nested names are joined by ``/``.

        Args:
            numbers: by name, finite.
            step: of training; of kinds that know no steps, the round, the epoch or the record's number.
        """

    @abstractmethod
    def result(self, numbers: Mapping[str, float], files: Sequence[Path]) -> None:
        """Show what came out.

        Args:
            numbers: of the final row.
            files: what a reader may want: the page, the table, JSON; weights are not among them.
        """

    @abstractmethod
    def end(self, *, done: bool) -> None:
        """Close the run; `done` is False where it was interrupted or failed."""


def flat(values: Mapping[str, Any], joint: str) -> dict[str, Any]:
    """Nested tables as one, their keys joined; lists become text, None is left out."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{key}{joint}{inner}": one for inner, one in flat(value, joint).items()}
        elif isinstance(value, (list, tuple)):
            found[key] = ", ".join(map(str, value))
        elif value is not None:
            found[key] = value
    return found


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record by name, nested ones joined by ``/``; what is no number is left out."""
    return {
        name: float(value)
        for name, value in flat(row, "/").items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
