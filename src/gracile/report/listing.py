"""The runs in a folder, one line each."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from gracile.core.errors import InputError
from gracile.report.reading import Run, read


@dataclass(frozen=True)
class Listed:
    """A run in a list.

    Attributes:
        path: its folder.
        recipe: the recipe's name.
        size: the recipe's size.
        status: ``running``, ``interrupted``, ``failed`` or ``done``.
        time: of that status, ISO 8601.
        data: the data set's name.
        arms: those that are trained, of all.
        best: the arm of the best test accuracy.
        accuracy: of that arm, percent, mean over seeds.
        reason: why it failed.
    """

    path: Path
    recipe: str
    size: str
    status: str
    time: str
    data: str
    arms: tuple[int, int]
    best: str | None
    accuracy: float | None
    reason: str

    def row(self) -> dict[str, str]:
        """For a person, within 100 columns."""
        return {
            "run": str(self.path)[-40:],
            "size": self.size,
            "status": self.status,
            "time": self.time[:16].replace("T", " "),
            "arms": "{}/{}".format(*self.arms) if self.arms[1] else "",
            "best": "" if self.accuracy is None else f"{self.accuracy:.2f} % {self.best}"[:24],
        }

    def to_json(self) -> dict[str, Any]:
        """For a program."""
        return {**asdict(self), "path": str(self.path), "arms": {"trained": self.arms[0], "all": self.arms[1]}}


def list_runs(
    folder: Path | str = "runs",
    *,
    recipe: str | None = None,
    status: str | None = None,
    sort: Literal["time", "accuracy"] = "time",
) -> list[Listed]:
    """The runs right below a folder.

    Args:
        folder: where they are.
        recipe: only runs of this recipe; ``*`` stands for anything.
        status: only runs in this state.
        sort: the oldest first, or the least accurate.

    Raises:
        InputError: no such folder, or no such run in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"There is no folder {root}.", "Name the folder that holds your runs, or run something first.")
    found = [_listed(file.parent) for file in root.glob("*/recipe.toml")]
    kept = [
        one for one in found
        if (recipe is None or fnmatch(one.recipe, recipe)) and (status is None or one.status == status)
    ]  # fmt: skip
    if not kept:
        known = sorted({one.recipe for one in found})
        remedy = (
            f"It holds {len(found)} runs of {', '.join(known)}." if found else "Run something first: gracile run digits"
        )
        raise InputError(f"There is no such run in {root}.", remedy)
    if sort == "accuracy":
        return sorted(kept, key=lambda one: (one.accuracy is not None, one.accuracy or 0.0, one.time))
    return sorted(kept, key=lambda one: (one.time, str(one.path)))


def _listed(path: Path) -> Listed:
    try:
        return _of_run(path, read(path))
    except (InputError, tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        return Listed(path, path.name, "", "unreadable", "", "", (0, 0), None, None, str(error))


def _of_run(path: Path, run: Run) -> Listed:
    means = {arm.name: mean for arm in run.arms if (mean := arm.mean("accuracy")) is not None}
    best = max(means, key=lambda name: means[name], default=None)
    trained = sum(any(one.result is not None for one in arm.trained) for arm in run.arms)
    return Listed(
        path,
        str(run.recipe.get("name", "")),
        str(run.recipe.get("size", "full")),
        str(run.status.get("status", "")),
        str(run.status.get("time", "")),
        str(run.data.get("name", "")),
        (trained, len(run.arms)),
        best,
        None if best is None else means[best],
        str(run.status.get("reason", "")),
    )
