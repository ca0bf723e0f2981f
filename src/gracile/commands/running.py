"""What `gracile run` and `gracile reproduce` share: choose the folder, run, print, return the exit status."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from gracile.core.errors import InputError, StorageError
from gracile.core.memory import keep_freed_memory
from gracile.core.runs import latest_folder, new_folder
from gracile.recipes import runner
from gracile.recipes.schema import Recipe

RUNS = Path("runs")
# Kinds of recipe that several processes can share.
TOGETHER = ("train", "workers")


def execute(
    recipe: Recipe,
    *,
    out: Path | None = None,
    resume: bool = False,
    data_root: Path | None = None,
    only: Sequence[str] = (),
    jobs: int = 1,
    cluster: str | None = None,
) -> int:
    """Run a recipe from the command line.

    Args:
        recipe: in the size it is to run at.
        out: the run's folder; ``runs/NAME-1``, ``-2``, ... by default.
        resume: continue the run in `out`, or the newest of this recipe.
        data_root: where data sets stand; sets ``GRACILE_DATA`` for this process.
        only: see `gracile.recipes.run`.
        jobs: see there.
        cluster: see there.

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
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if only or jobs > 1 or cluster is not None:
            raise InputError("torchrun has made the processes already.", "Leave out --only, --jobs and --cluster.")
        return _execute_together(recipe, out, resume)
    try:
        finished = runner.run(recipe, out, resume=resume, only=only, jobs=jobs, cluster=cluster)
    except (KeyboardInterrupt, StorageError):
        if (out / "recipe.toml").exists():
            print(f"The run in {out} can be continued: gracile run --resume --out {out}", file=sys.stderr)
        raise
    return report(finished)


def _execute_together(recipe: Recipe, out: Path, resume: bool) -> int:
    """A run under torchrun: rank 0's folder is the run's, the others' are put away; all go through the same recipe."""
    from gracile.training.parallel import joined

    rank = int(os.environ["RANK"])
    if recipe.kind not in TOGETHER:
        raise InputError(f"A recipe of kind '{recipe.kind}' runs in one process.", "Start it without torchrun.")
    with ExitStack() as stack:
        # A network of workers makes its own connections.
        ranks = stack.enter_context(joined()) if recipe.kind == "train" else None
        folder = out
        if rank:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / out.name
            if resume:
                shutil.copytree(out, folder)
        if ranks is not None:
            ranks.wait()
        finished = runner.run(recipe, folder, resume=resume)
        if rank == 0:
            return report(finished)
    return 0


def report(finished: runner.Finished) -> int:
    """Print a finished run; the exit status."""
    print(runner.describe(finished))
    return 0 if all(met for _, met in finished.verdicts) else 1
