"""Runs a recipe of any kind in a folder of its own and leaves behind all that is needed to trust the result."""

from __future__ import annotations

import json
import logging
import tomllib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w
from tabulate import tabulate

from gracile.core.errors import CollapseWarning, GracileError, InputError
from gracile.core.files import write_json, write_text
from gracile.core.provenance import environment
from gracile.core.runs import RunFolder
from gracile.recipes import schema
from gracile.recipes.kinds import Outcome, kind
from gracile.report import write_report

log = logging.getLogger("gracile")


@dataclass(frozen=True)
class Finished:
    """A finished run.

    Attributes:
        folder: where it stands.
        outcome: what it found.
        verdicts: per accept-criterion of this size, whether it was met.
    """

    folder: RunFolder
    outcome: Outcome
    verdicts: list[tuple[schema.Accept, bool]]


def run(recipe: schema.Recipe, path: Path, *, resume: bool = False) -> Finished:
    """Run a recipe in `path`, or continue the run that stands there.

    Args:
        recipe: in the size it is to run at.
        path: the run's folder.
        resume: continue; the recipe must be the one the folder was started with.

    Raises:
        InputError: the folder holds a finished or different run.
        GracileError: whatever the run met; the folder stays resumable.
    """
    module = kind(recipe.kind)
    settings = schema.parse(module.Settings, recipe.settings, f"[settings] of the recipe '{recipe.name}'")
    folder = RunFolder(path)
    resolved = recipe.model_dump(exclude={"sizes", "settings"}, exclude_none=True)
    resolved["settings"] = settings.model_dump(exclude_none=True)
    _claim(folder, resolved, resume)
    write_json(folder.path / "environment.json", environment())
    handler = folder.log_to_file()
    folder.set_status("running")
    log.info("run %s (%s) in %s", recipe.name, recipe.size, path)
    try:
        rows = schema.published(recipe.published) if recipe.published else []
        with _heeded_warnings() as heard:
            outcome = module.execute(settings, folder, rows)
        outcome = replace(outcome, notes=[*outcome.notes, *heard])
        verdicts = [
            (criterion, criterion.met(outcome.values)) for criterion in recipe.accept if recipe.size in criterion.sizes
        ]
        _store(folder, recipe, outcome, verdicts)
        _show(folder)
        folder.set_status("done")
        log.info("done")
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
        logging.getLogger("gracile").removeHandler(handler)
        handler.close()
    return Finished(folder, outcome, verdicts)


@contextmanager
def _heeded_warnings() -> Iterator[list[str]]:
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


def started_recipe(path: Path) -> schema.Recipe:
    """The resolved recipe of the run that stands in a folder.

    Raises:
        InputError: the folder holds no run.
    """
    file = path / "recipe.toml"
    if not file.is_file():
        raise InputError(f"{path} holds no run to resume.", "Name the folder of an interrupted run.")
    return schema.load(str(file))


def _claim(folder: RunFolder, resolved: dict[str, Any], resume: bool) -> None:
    """Write the resolved recipe, or check that it is the one an earlier start left."""
    file = folder.path / "recipe.toml"
    if not file.exists():
        write_text(file, tomli_w.dumps(resolved))
        return
    if not resume:
        raise InputError(
            f"{folder.path} already holds a run.", "Continue it with --resume, or choose another folder with --out."
        )
    if tomllib.loads(file.read_text(encoding="utf-8")) != resolved:
        raise InputError(
            f"The run in {folder.path} was started with another recipe or other settings.",
            "Resume with the same recipe and options, or start anew without --resume.",
        )


def _store(
    folder: RunFolder, recipe: schema.Recipe, outcome: Outcome, verdicts: list[tuple[schema.Accept, bool]]
) -> None:
    result = {
        "recipe": recipe.name,
        "title": recipe.title,
        "source": recipe.source,
        "size": recipe.size,
        "rows": outcome.rows,
        "values": outcome.values,
        "accept": [{**criterion.model_dump(exclude_none=True), "met": met} for criterion, met in verdicts],
        "notes": [*([recipe.notes] if recipe.notes else []), *outcome.notes],
        "environment": environment(),
    }
    write_json(folder.path / "result.json", result)
    write_text(folder.path / "table.md", format_rows(outcome.rows) + "\n")


def _show(folder: RunFolder) -> None:
    """Write the run's page; a result that is stored already must not be lost for the sake of its picture."""
    try:
        write_report([folder.path], folder.path / "report.html")
    except Exception as error:
        log.warning(
            "The page of this run could not be made (%s); try `gracile report %s`.",
            error,
            folder.path,
            exc_info=not isinstance(error, GracileError),
        )


def format_rows(rows: list[dict[str, Any]]) -> str:
    """The result table as Markdown, which is also readable in a terminal."""
    return tabulate(rows, headers="keys", tablefmt="github", floatfmt=".4g", missingval="")


def read_result(path: Path) -> dict[str, Any]:
    """The ``result.json`` of a finished run.

    Raises:
        InputError: there is none.
    """
    file = path / "result.json"
    if not file.exists():
        raise InputError(f"{path} holds no finished run.", "Finish it with --resume.")
    return json.loads(file.read_text(encoding="utf-8"))


def describe(finished: Finished) -> str:
    """What the command line prints at the end of a run."""
    parts = [format_rows(finished.outcome.rows)]
    parts += [
        f"{'met   ' if met else 'MISSED'}  {criterion.claim} ({criterion.value} = {finished.outcome.values.get(criterion.value)})"
        for criterion, met in finished.verdicts
    ]
    parts += list(finished.outcome.notes)
    parts.append(f"Everything is in {finished.folder.path}; open {finished.folder.path / 'report.html'}.")
    return "\n\n".join(parts[:1]) + "\n\n" + "\n".join(parts[1:])
