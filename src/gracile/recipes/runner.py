"""Runs a recipe of any kind in a folder of its own and leaves behind all that is needed to trust the result."""

from __future__ import annotations

import json
import logging
import tomllib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import tomli_w
import torch
from tabulate import tabulate

from gracile import tracking
from gracile.core.claims import take
from gracile.core.console import told
from gracile.core.errors import GracileError, InputError
from gracile.core.files import write_json, write_text
from gracile.core.names import inside
from gracile.core.provenance import environment
from gracile.core.runs import RunFolder
from gracile.recipes import arms, engine, schema
from gracile.recipes.kinds import Kind, Outcome, WholeKind, kind
from gracile.recipes.settings import loaded
from gracile.recipes.tables import Rows
from gracile.report import write_report

log = logging.getLogger("gracile")

# What became of a criterion.
WORDS = {True: "met      ", False: "MISSED   ", None: "UNDECIDED"}


@dataclass(frozen=True)
class Finished:
    """A finished run, or what this process could do of one.

    Attributes:
        folder: where it stands.
        outcome: what it found; nothing while parts are missing.
        verdicts: per accept-criterion of this size, whether it was met; None for undecided.
        missing: the folders' names of parts that are still to be done, by other processes or later.
    """

    folder: RunFolder
    outcome: Outcome
    verdicts: list[tuple[schema.Accept, bool | None]]
    missing: Sequence[str] = ()

    @property
    def status(self) -> int:
        """The exit status on the command line: 1 where a criterion was not met."""
        return 0 if all(met for _, met in self.verdicts) else 1

    @property
    def accept(self) -> list[dict[str, Any]]:
        """The criteria of this size as plain values, each with whether it was ``met``: None for undecided."""
        return [{**criterion.model_dump(exclude_none=True), "met": met} for criterion, met in self.verdicts]

    def __str__(self) -> str:
        where, outcome = self.folder.path, self.outcome
        if self.missing:
            return (
                f"Still to be done in {where}: {', '.join(self.missing)}. The process that finishes the last part writes the table; "
                f"gracile run --resume --out {where} trains the parts that no process is working on."
            )
        lines = [
            f"{WORDS[met]}  {one.claim} ({one.value} = {outcome.values.get(one.value)})" for one, met in self.verdicts
        ]
        lines += [*outcome.notes, f"Everything is in {where}; open {where / 'report.html'}."]
        return f"{_for_terminal(outcome.rows)}\n\n" + "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The same for a program."""
        outcome = self.outcome
        found = {"rows": outcome.rows, "values": outcome.values, "accept": self.accept, "notes": list(outcome.notes)}
        return {"folder": str(self.folder.path), "missing": list(self.missing), **found}


def run(
    recipe: schema.Recipe,
    path: Path,
    *,
    resume: bool = False,
    only: Sequence[str] = (),
    jobs: int = 1,
    cluster: str | None = None,
    track: Sequence[str] = (),
) -> Finished:
    """Run a recipe in `path`, or continue the run that stands there, or help in it.

    Args:
        recipe: in the size it is to run at.
        path: the run's folder.
        resume: continue, beside other processes that do the same; the recipe must be the one the folder was started with.
        only: arms to train, as ``ARM`` or ``ARM:SEED``, a name or a pattern such as ``*_50``, with what they need; the run is joined if it
            stands there already.
        jobs: arms trained at once, each in a process of its own with its share of the threads.
        cluster: address of a Dask scheduler whose workers train the arms instead.
        track: rows of `gracile.tracking.TRACKERS`, or ``FILE.py:NAME``, that every arm and the table are shown to.

    Returns:
        The finished run; with parts that are `missing` where others are at work on them, or `only` left them out.

    Raises:
        InputError: the folder holds a finished or different run, or other files and no run; there is no run to `resume`; no such arm
            or seed.
        GracileError: whatever the run met; the folder stays resumable.
    """
    if resume:
        started_recipe(path, "Name the folder of an interrupted run, or begin one there without --resume.")
    _check_place(path)
    module, settings, published = _read(recipe)
    loaded.cache_clear()
    spread = engine.Spread(tuple(only), jobs, cluster, tuple(track))
    tracking.check(track)
    parts = settings if isinstance(settings, arms.Parts) else None
    if parts is None and spread != engine.Spread(track=tuple(track)):
        raise InputError(
            f"A recipe of kind '{recipe.kind}' is run at one go.", "Leave --only, --jobs and --cluster out."
        )
    # What cannot be trained leaves no folder behind.
    if parts is not None:
        engine.check_spread(parts, spread)
        if not (path / "recipe.toml").exists():
            parts.check(published)
            parts.rehearse()
    folder = RunFolder(path)
    _claim(folder, recipe, settings, resume or bool(only))
    write_json(folder.path / "environment.json", environment())
    with folder.logged():
        folder.set_status("running")
        told.info("run %s (%s) in %s", recipe.name, recipe.size, path)
        try:
            missing: list[str] = []
            if parts is not None:
                parts.check(published)
                missing = engine.train_parts(recipe.kind, parts, folder, spread)
            finished = Finished(folder, Outcome(), [], missing)
            if not missing:
                finished = _finish(recipe, module, settings, folder, published, spread.track)
            at_work = parts is not None and engine.still_trained(parts, folder)
            folder.set_status("done" if not finished.missing else "running" if at_work else "interrupted")
            log.info("still to be done: %s", ", ".join(finished.missing) or "nothing")
        except KeyboardInterrupt:
            folder.set_status("interrupted")
            log.info("interrupted; resumable")
            raise
        except Exception as error:
            # The user's mistakes are one line; our bugs keep their traceback in the log.
            log.error("%s", error, exc_info=not isinstance(error, GracileError))
            folder.set_status("failed", reason=str(error))
            raise
        finally:
            loaded.cache_clear()
    return finished


@dataclass(frozen=True)
class Rehearsed:
    """What a run would train.

    Attributes:
        recipe: in its size.
        rows: one for each arm, with what is known beforehand.
    """

    recipe: schema.Recipe
    rows: Rows

    def __str__(self) -> str:
        seconds = sum(row["seconds"] for row in self.rows if "seconds" in row)
        lines = [f"{self.recipe.title} (size {self.recipe.size}, kind {self.recipe.kind})"]
        if self.rows:
            lines.append(_for_terminal([_with_time(row) for row in self.rows]))
        else:
            lines.append("It is run at one go: there is nothing to say of its parts.")
        if seconds:
            lines.append(f"{_words(seconds)} in all on this machine, by a few steps timed here. Nothing was written.")
        return "\n\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The same for a program; ``seconds`` for all seeds of an arm."""
        return {"recipe": self.recipe.name, "size": self.recipe.size, "kind": self.recipe.kind, "arms": self.rows}


def rehearse(recipe: schema.Recipe) -> Rehearsed:
    """Build everything that a run would train, time a few steps, and write nothing.

    Args:
        recipe: in the size it is to run at.

    Raises:
        GracileError: what the run itself would refuse at its start.
    """
    _, settings, published = _read(recipe)
    rows: Rows = []
    if isinstance(settings, arms.Parts):
        settings.check(published)
        rows = settings.rehearse(timed=True)
        loaded.cache_clear()
    return Rehearsed(recipe, rows)


def _with_time(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose seconds are words."""
    return {key: value for key, value in row.items() if key != "seconds"} | (
        {"time": _words(row["seconds"])} if "seconds" in row else {}
    )


def _words(seconds: float) -> str:
    """About how long, in one unit."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"about {seconds / size:.0f} {unit}"
    return f"about {seconds:.0f} seconds" if seconds >= 1.5 else "about a second"


def _read(recipe: schema.Recipe) -> tuple[Kind, schema.Strict, Rows]:
    """A recipe's kind, its settings as that kind knows them, and its published rows."""
    module = kind(recipe.kind)
    settings = schema.parse(module.Settings, recipe.settings, f"[settings] of the recipe '{recipe.name}'")
    return module, settings, schema.published(recipe.published) if recipe.published else []


def _finish(
    recipe: schema.Recipe,
    module: Kind,
    settings: schema.Strict,
    folder: RunFolder,
    published: Rows,
    track: Sequence[str],
) -> Finished:
    """Set the table of a run whose parts are done, or do all of one without parts."""
    from gracile.report.figures import save_all

    # Of processes that find all parts done at the same moment, one sets the table.
    claim = take(folder.path)
    if claim is None:
        return Finished(folder, Outcome(), [], ["the table"])
    shown = tracking.following(track, tracking.Tracked.of(folder.path)) if track else nullcontext()
    with claim, arms.heeded_warnings() as heard, shown:
        if isinstance(settings, arms.Parts):
            results, notes = arms.results_of(settings, folder)
            found = cast(arms.ArmKind, module).outcome(settings, folder, results, published)
        else:
            (folder.path / "metrics.jsonl").unlink(missing_ok=True)
            found, notes = cast(WholeKind, module).execute(settings, folder), []
        figures = {name: plot for name, plot in found.plots.items() if not isinstance(plot, Path)}
        written = {**found.plots, **save_all(figures, folder.path / "plots")}
        plots = {name: inside(folder.path, cast(Path, plot)) for name, plot in written.items()}
        warned = [note for note in dict.fromkeys([*notes, *heard]) if note]
        outcome = replace(
            found, plots=plots, notes=[*(note for note in found.notes if note and note not in warned), *warned]
        )
        verdicts = [(one, one.met(outcome.values)) for one in recipe.accept if recipe.size in one.sizes]
        finished = Finished(folder, outcome, verdicts)
        _store(recipe, finished, warned)
        _show(folder)
    return finished


def started_recipe(path: Path, remedy: str = "Name the folder of an interrupted run.") -> schema.Recipe:
    """The resolved recipe of the run that stands in a folder.

    Raises:
        InputError: the folder holds no run.
    """
    file = path / "recipe.toml"
    if not file.is_file():
        raise InputError(f"{path} holds no run.", remedy)
    return schema.load(str(file))


def _check_place(path: Path) -> None:
    """Refuse a folder that holds files and no run, such as one of images by class.

    Raises:
        InputError: it does.
    """
    # What an array of jobs has begun meanwhile has its recipe before anything else; names with a dot are of files not yet there, and
    # finished parts of a run may have been laid there to begin with.
    found = [
        one
        for one in (path.iterdir() if path.is_dir() else ())
        if not (one.name.startswith(".") or (one / arms.RESULT).is_file())
    ]
    if found and not (path / "recipe.toml").exists():
        raise InputError(f"{path} holds other files and no run.", "Name a new or empty folder with --out.")


def _claim(folder: RunFolder, recipe: schema.Recipe, settings: schema.Strict, resume: bool) -> None:
    """Write the resolved recipe, or check that it is the one an earlier start left."""
    resolved = recipe.model_dump(exclude={"sizes", "settings"}, exclude_none=True)
    resolved["settings"] = settings.model_dump(exclude_none=True)
    file = folder.path / "recipe.toml"
    if not file.exists():
        write_text(file, tomli_w.dumps(resolved))
    elif not resume:
        raise InputError(
            f"{folder.path} already holds a run.", "Continue it with --resume, or choose another folder with --out."
        )
    else:
        before = tomllib.loads(file.read_text(encoding="utf-8"))
        if _decides(resolved) not in (_decides(before), _decides(_as_now(before, type(settings)))):
            raise InputError(
                f"The run in {folder.path} was started with another recipe or other settings.",
                "Resume with the same recipe and options, or start anew without --resume.",
            )
        if (reworded := {**resolved, "settings": before["settings"]}) != before:
            write_text(file, tomli_w.dumps(reworded))


def _decides(resolved: dict[str, Any]) -> dict[str, Any]:
    """What a resolved recipe decides of a run: all but the words about it and the criteria of other sizes."""
    held = [{**one, "claim": "", "sizes": []} for one in resolved.get("accept", []) if resolved["size"] in one["sizes"]]
    return {key: value for key, value in resolved.items() if key not in ("title", "source", "notes")} | {"accept": held}


def _as_now(resolved: dict[str, Any], kind: type[schema.Strict]) -> dict[str, Any]:
    """What an earlier version resolved, in words of this one.

    A setting that came later has its default; ``auto``, then the default precision, was float32 on processors.
    """
    settings = resolved["settings"]
    training = settings.get("training", {})
    if training.get("precision") == "auto" and not torch.cuda.is_available():
        settings = {**settings, "training": {**training, "precision": "float32"}}
    try:
        known = schema.parse(kind, settings, "[settings]")
    except InputError:
        return resolved
    return {**resolved, "settings": known.model_dump(exclude_none=True)}


def _store(recipe: schema.Recipe, finished: Finished, warned: list[str]) -> None:
    folder, outcome = finished.folder.path, finished.outcome
    result = {
        "recipe": recipe.name, **recipe.model_dump(include={"title", "source", "size"}), "rows": outcome.rows,
        "values": outcome.values, "accept": finished.accept, "notes": [*filter(None, [recipe.notes]), *outcome.notes],
        # Those of the notes that are no routine.
        "warnings": warned,
        "environment": environment(),
    }  # fmt: skip
    write_json(folder / "result.json", result)
    write_text(folder / "table.md", format_rows(outcome.rows) + "\n")


def _show(folder: RunFolder) -> None:
    """Write the run's page; a result that is stored already must not be lost for the sake of its picture."""
    try:
        write_report([folder.path], folder.path / "report.html")
    except Exception as error:
        what = "The page of this run could not be made (%s); try `gracile report %s`."
        log.warning(what, error, folder.path, exc_info=not isinstance(error, GracileError))


def format_rows(rows: Rows) -> str:
    """The result table as Markdown."""
    return tabulate(rows, headers="keys", tablefmt="github", floatfmt=".4g", missingval="")


def _for_terminal(rows: Rows) -> str:
    """The same, narrower: long titles and how an arm collapsed take two lines."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    titles, cells = (
        [8 if key.endswith(" %") else 10 for key in keys],
        [8 if key == "collapsed" else None for key in keys],
    )
    return tabulate(
        rows, headers="keys", tablefmt="simple", floatfmt=".4g", missingval="",
        maxheadercolwidths=titles or None, maxcolwidths=cells or None,
    )  # fmt: skip


def read_result(path: Path) -> dict[str, Any]:
    """The ``result.json`` of a finished run.

    Raises:
        InputError: there is none.
    """
    file = path / "result.json"
    if not file.exists():
        raise InputError(f"{path} holds no finished run.", "Finish it with --resume.")
    return json.loads(file.read_text(encoding="utf-8"))
