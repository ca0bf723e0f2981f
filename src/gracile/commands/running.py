"""What `gracile run` and `gracile reproduce` share: choose the folder, run, print, return the exit status."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from gracile.core.errors import StorageError
from gracile.core.memory import keep_freed_memory
from gracile.core.runs import latest_folder, new_folder
from gracile.recipes import runner
from gracile.recipes.schema import Recipe

RUNS = Path("runs")


def execute(recipe: Recipe, *, out: Path | None = None, resume: bool = False, data_root: Path | None = None) -> int:
    """Run a recipe from the command line.

    Args:
        recipe: in the size it is to run at.
        out: the run's folder; ``runs/NAME-1``, ``-2``, ... by default.
        resume: continue the run in `out`, or the newest of this recipe.
        data_root: where data sets stand; sets ``GRACILE_DATA`` for this process.

    Returns:
        0, or 1 when a criterion fixed beforehand was missed.
    """
    if data_root is not None:
        os.environ["GRACILE_DATA"] = str(data_root)
    keep_freed_memory()
    printer = logging.StreamHandler()
    printer.setLevel(logging.WARNING)
    printer.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    # A user's mistake is printed once, by the command line itself.
    printer.addFilter(lambda record: record.levelno == logging.WARNING)
    logging.getLogger("gracile").addHandler(printer)
    name = recipe.name if recipe.size == "full" else f"{recipe.name}-{recipe.size}"
    if out is None:
        out = latest_folder(RUNS, name) if resume else new_folder(RUNS, name)
    try:
        finished = runner.run(recipe, out, resume=resume)
    except (KeyboardInterrupt, StorageError):
        if (out / "recipe.toml").exists():
            print(f"The run in {out} can be continued: gracile run --resume --out {out}", file=sys.stderr)
        raise
    return report(finished)


def report(finished: runner.Finished) -> int:
    """Print a finished run; the exit status."""
    print(runner.describe(finished))
    return 0 if all(met for _, met in finished.verdicts) else 1
