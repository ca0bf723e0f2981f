"""Parts of runs that are too long for one sitting, kept until the run is whole.

``python tools/parts.py keep RUN`` puts the numbers of a run's finished parts, each with where it was trained, under ``parts/``, to be
committed; ``python tools/parts.py lay NAME SIZE RUN`` begins a run's folder with them, on this machine or another, and
``gracile run NAME --size SIZE --out RUN`` trains what is missing. Networks are not kept: an arm that takes its shape from another's is
trained in the same sitting. The result names every commit, processor and number of threads; once it is kept the parts go.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from gracile.core.errors import GracileError, InputError
from gracile.core.files import write_text
from gracile.core.names import safe_name
from gracile.recipes import schema
from gracile.recipes.arms import ENVIRONMENT, RESULT
from gracile.recipes.kinds import kind
from gracile.recipes.runner import started_recipe

ROOT = Path(__file__).parents[1] / "parts"
# Whose presence says that a part is done comes last.
FILES = (ENVIRONMENT, RESULT)


def shelf(name: str, size: str) -> Path:
    """Where the parts of a recipe at a size are kept."""
    return ROOT / f"{safe_name(name, 'recipe')}.{safe_name(size, 'size')}"


def keep(run: Path) -> list[str]:
    """Keep the numbers of a run's finished parts, from a clean commit each.

    Returns:
        the parts that are kept now and were not before.

    Raises:
        InputError: no run, one of other settings than the parts kept of it, or a part of no clean commit.
    """
    recipe = started_recipe(run)
    kept, file = shelf(recipe.name, recipe.size), run / "recipe.toml"
    if (kept / file.name).is_file() and _settings(started_recipe(kept)) != _settings(recipe):
        raise InputError(
            f"The parts in {kept} are of other settings than {run}.", f"Remove {kept} if they are outdated."
        )
    new = []
    for part in sorted(one.parent for one in run.glob(f"*/{RESULT}")):
        if (kept / part.name / RESULT).exists():
            continue
        commit = json.loads((part / ENVIRONMENT).read_text("utf-8"))["commit"]
        if commit is None or "+" in commit:
            raise InputError(f"{part} is of no clean commit.", "Commit the changes and train it again.")
        (kept / part.name).mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copyfile(part / name, kept / part.name / name)
        new.append(part.name)
    if new:
        write_text(kept / file.name, file.read_text("utf-8"))
    return new


def lay(name: str, size: str, run: Path) -> list[str]:
    """Begin a run with the parts that are kept of it.

    Returns:
        the parts it begins with.

    Raises:
        InputError: the folder is there already, nothing is kept, or the recipe has other settings now.
    """
    kept = shelf(name, size)
    if run.exists():
        raise InputError(f"{run} is there already.", f"Go on with it: gracile run --resume --out {run}")
    if not kept.is_dir():
        raise InputError(f"No parts are kept of {name} at the size {size}.", f"Begin: gracile run {name} --size {size}")
    if _settings(schema.resized(schema.load(name), size)) != _settings(started_recipe(kept)):
        raise InputError(
            f"{name} has other settings now than the parts in {kept}.", f"Remove {kept}; they are outdated."
        )
    run.mkdir(parents=True)
    for part in sorted(one.parent for one in kept.glob(f"*/{RESULT}")):
        shutil.copytree(part, run / part.name)
    return sorted(one.parent.name for one in run.glob(f"*/{RESULT}"))


def _settings(recipe: schema.Recipe) -> schema.Strict:
    """What a recipe's kind reads of it: a run's has the defaults written out."""
    return schema.parse(kind(recipe.kind).Settings, recipe.settings, f"[settings] of the recipe '{recipe.name}'")


def main(words: Sequence[str]) -> None:
    """Keep parts, or begin a run with them."""
    match list(words):
        case ["keep", run]:
            print("kept: " + (", ".join(keep(Path(run))) or "nothing new"))
        case ["lay", name, size, run]:
            print(f"{run} begins with: {', '.join(lay(name, size, Path(run)))}")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except GracileError as error:
        sys.exit(f"gracile: {error}")
