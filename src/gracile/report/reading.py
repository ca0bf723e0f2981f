"""What a run's folder holds, read tolerantly: a page can be made of an unfinished run and of one of any kind."""

from __future__ import annotations

import json
import statistics
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gracile.core.errors import InputError
from gracile.core.files import read_json_lines
from gracile.core.runs import part_name
from gracile.report.compressed import Attacked, Measured, attacked_networks, measured, number


@dataclass(frozen=True)
class Trained:
    """One arm from one seed.

    Attributes:
        folder: its own in the run's.
        seed: that it was trained from.
        metrics: rows of ``metrics.jsonl``, one per epoch.
        result: ``arm.json``: numbers of the test split, percent; None until the arm has ended.
        layers: ``layers.json``; None where it was not written.
        answers: ``answers.json``: what each class of the test split is taken for; None where it was not written.
    """

    folder: Path
    seed: int
    metrics: list[dict[str, Any]]
    result: dict[str, Any] | None
    layers: dict[str, Any] | None
    answers: dict[str, Any] | None = None


@dataclass(frozen=True)
class Arm:
    """One method of a run, over its seeds.

    Attributes:
        name: as the recipe calls it.
        settings: its table of the recipe.
        trained: one per seed, in the recipe's order; only those that have begun.
        measured: what ``gracile compress`` measured, if it did.
        attacked: what ``gracile attack`` found of it and of the networks attacked beside it.
    """

    name: str
    settings: dict[str, Any]
    trained: list[Trained]
    measured: Measured | None = None
    attacked: list[Attacked] = field(default_factory=list)

    @property
    def sparse(self) -> bool:
        """Whether a method acts on it; without one it is trained densely."""
        return self.settings.get("method") is not None

    @property
    def collapsed(self) -> str:
        """How a seed of it has failed as a whole, such as ``at chance``; empty where none has."""
        return next((str(how) for one in self.trained if (how := (one.result or {}).get("collapsed"))), "")

    def numbers(self, key: str) -> list[float]:
        """A number of ``arm.json`` over the seeds that have it."""
        return [value for one in self.trained if (value := number((one.result or {}).get(key))) is not None]

    def mean(self, key: str) -> float | None:
        """Its mean over seeds."""
        found = self.numbers(key)
        return statistics.fmean(found) if found else None

    def spread(self, key: str) -> float | None:
        """Its standard deviation over seeds, None for fewer than two."""
        found = self.numbers(key)
        return statistics.stdev(found) if len(found) > 1 else None

    def macs_left(self) -> float | None:
        """Multiply-adds per sample after physical removal, mean over seeds; None where layer sizes were not kept."""
        return self._size("macs_left")

    def macs(self) -> float | None:
        """Multiply-adds per sample before removal."""
        return self._size("macs")

    def parameters_left(self) -> float | None:
        """Parameters after physical removal, mean over seeds."""
        return self._size("parameters_left")

    def _size(self, key: str) -> float | None:
        found = [value for one in self.trained if (value := number((one.layers or {}).get(key))) is not None]
        return statistics.fmean(found) if found else None


@dataclass(frozen=True)
class Run:
    """A run's folder.

    Attributes:
        path: where it stands.
        recipe: the resolved recipe.
        recipe_text: the same as TOML.
        result: ``result.json``; None while the run is unfinished.
        environment: ``environment.json``.
        status: ``status.json``.
        arms: its arms; empty for kinds without.
        plots: its pictures, SVG or PNG.
        described: ``data.json``: what it learned from; None where it was not written.
    """

    path: Path
    recipe: dict[str, Any]
    recipe_text: str
    result: dict[str, Any] | None
    environment: dict[str, Any]
    status: dict[str, Any]
    arms: list[Arm]
    plots: list[Path]
    described: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def title(self) -> str:
        """The recipe's one line."""
        return str(self.recipe.get("title") or self.recipe.get("name") or self.name)

    @property
    def kind(self) -> str:
        """The recipe's kind."""
        return str(self.recipe.get("kind", "?"))

    @property
    def settings(self) -> dict[str, Any]:
        """The recipe's settings."""
        found = self.recipe.get("settings", {})
        return found if isinstance(found, dict) else {}

    @property
    def data(self) -> dict[str, Any]:
        """The recipe's data settings, whole or as a name."""
        found = self.settings.get("data", {})
        return found if isinstance(found, dict) else {"name": found}

    @property
    def baseline(self) -> Arm | None:
        """What the other arms are held against: the first dense arm, else the first."""
        return next((arm for arm in self.arms if not arm.sparse), self.arms[0] if self.arms else None)

    @property
    def notes(self) -> list[str]:
        """What the run wants its reader to know, besides its warnings."""
        if self.result is not None:
            return [str(note) for note in self.result.get("notes", []) if str(note) not in self.warnings]
        return [str(self.recipe["notes"])] if self.recipe.get("notes") else []

    @property
    def warnings(self) -> list[str]:
        """Of what it noted, that which is no routine."""
        return [str(note) for note in (self.result or {}).get("warnings", [])]


def read(path: Path) -> Run:
    """Read a run's folder.

    Raises:
        InputError: it is no run's folder, or a file in it cannot be read.
    """
    file = path / "recipe.toml"
    if not file.is_file():
        raise _no_run(path)
    text = file.read_text(encoding="utf-8", errors="replace")
    recipe = _parsed(file, lambda: tomllib.loads(text))
    run = Run(
        path=path,
        recipe=recipe,
        recipe_text=text,
        result=_json(path / "result.json"),
        environment=_json(path / "environment.json") or {},
        status=_json(path / "status.json") or {},
        arms=[],
        plots=sorted(file for file in (path / "plots").glob("*") if file.suffix in (".png", ".svg")),
        described=_json(path / "data.json"),
    )
    run.arms.extend(_arms(path, run.settings))
    return run


def _no_run(path: Path) -> InputError:
    if not path.exists():
        return InputError(f"There is no folder {path}.", "Name a run's folder, such as runs/digits-1.")
    inside = sorted(file.parent.name for file in path.glob("*/recipe.toml"))
    if inside:
        remedy = f"It holds runs: name one, such as {path / inside[0]}."
    elif (path.parent / "recipe.toml").is_file():
        remedy = f"The run is its parent: {path.parent}."
    else:
        remedy = "Name a run's folder, such as runs/digits-1."
    return InputError(f"{path} is not a run's folder: it holds no recipe.toml.", remedy)


def _arms(path: Path, settings: dict[str, Any]) -> list[Arm]:
    """The recipe's arms, those that have not begun too."""
    named = settings.get("arms")
    if not isinstance(named, dict):
        return []
    seeds = [seed for seed in settings.get("seeds", [0]) if isinstance(seed, int)]
    arms = []
    for name, table in named.items():
        folders = {seed: path / part_name(name, seed, seeds) for seed in seeds}
        trained = [_trained(seed, folder) for seed, folder in folders.items() if folder.is_dir()]
        parts = [folder.name for folder in folders.values()]
        timed = _first(path / "compressed", parts, "compress.json")
        robust = _first(path / "attacked", parts, "attack.json")
        own = table if isinstance(table, dict) else {}
        times, attacks = (
            (None if timed is None else measured(timed)),
            ([] if robust is None else attacked_networks(robust)),
        )
        arms.append(Arm(name, own, trained, times, attacks))
    return arms


def _trained(seed: int, folder: Path) -> Trained:
    found = (_json(folder / name) for name in ("arm.json", "layers.json", "answers.json"))
    return Trained(folder, seed, read_json_lines(folder / "metrics.jsonl"), *found)


def _first(folder: Path, names: list[str], file: str) -> dict[str, Any] | None:
    """What was measured of an arm; the first seed that was measured stands for all."""
    found = (_json(folder / name / file) for name in names)
    return next((one for one in found if one is not None), None)


def _json(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    value = _parsed(file, lambda: json.loads(file.read_text(encoding="utf-8")))
    if not isinstance(value, dict):
        raise InputError(f"{file} does not hold a table.", "Finish the run with --resume, or run it anew.")
    return value


def _parsed(file: Path, parse: Callable[[], Any]) -> Any:
    try:
        return parse()
    except (ValueError, OSError) as error:
        raise InputError(
            f"{file} cannot be read: {error}.", "Delete that file and make the page again, or run anew."
        ) from None
