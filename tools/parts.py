"""Parts of runs that are too long for one sitting, kept until the run is whole.

``python tools/parts.py keep RUN`` puts the numbers of a run's finished parts, each with where it was trained, under ``parts/``, to be
committed; ``python tools/parts.py lay NAME SIZE RUN`` begins a run's folder with them, on this machine or another, and
``gracile run NAME --size SIZE --out RUN`` trains what is missing. Networks are not kept: an arm that takes its shape from another's is
trained in the same sitting. Of a recipe that has changed since, those parts are good whose own arm and common settings have not. The result
names every commit, processor and number of threads; once it is kept the parts go.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gracile.core.errors import GracileError, InputError
from gracile.core.files import write_text
from gracile.core.names import safe_name
from gracile.recipes import schema
from gracile.recipes.arms import ENVIRONMENT, RESULT, ArmSettings, Parts
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
    if (kept / file.name).is_file():
        _, other = _sorted_out(kept, _settings(recipe))
        if other:
            raise InputError(
                f"In {kept} are parts of other settings than {run}: {', '.join(other)}.",
                "Remove them if they are outdated.",
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
        the parts it begins with; those of other settings than the recipe has now are left out.

    Raises:
        InputError: the folder is there already, nothing is kept, or nothing of the settings that the recipe has now.
    """
    kept = shelf(name, size)
    if run.exists():
        raise InputError(f"{run} is there already.", f"Go on with it: gracile run --resume --out {run}")
    if not kept.is_dir():
        raise InputError(f"No parts are kept of {name} at the size {size}.", f"Begin: gracile run {name} --size {size}")
    same, other = _sorted_out(kept, _settings(schema.resized(schema.load(name), size)))
    if not same:
        raise InputError(
            f"{name} has other settings now than the parts in {kept}: {', '.join(other)}.",
            f"Remove {kept}; they are outdated.",
        )
    run.mkdir(parents=True)
    for part in same:
        shutil.copytree(kept / part, run / part)
    return same


def _sorted_out(kept: Path, now: schema.Strict) -> tuple[list[str], list[str]]:
    """The parts kept in a folder whose numbers these settings would give again, and the others."""
    then = _settings(started_recipe(kept))
    before, after = _rests_on(then), _rests_on(now)
    parts = sorted(one.parent.name for one in kept.glob(f"*/{RESULT}"))
    same = [part for part in parts if part in after and before.get(part) == after[part]]
    return same, [part for part in parts if part not in same]


def _rests_on(settings: schema.Strict) -> dict[str, Any]:
    """By a part's folder, what its numbers rest on: what all arms share, its own arm, and those it begins with."""
    if not isinstance(settings, Parts):
        return {}
    if not isinstance(settings, ArmSettings):
        return dict.fromkeys((settings.folder_of(arm, seed) for arm, seed in _all(settings)), settings.model_dump())
    shared = settings.model_dump(exclude={"arms", "leave_out", "seeds", "compare", "reuse"})
    found = {}
    for arm, seed in _all(settings):
        arms, waiting = {}, [arm]
        while waiting:
            name = waiting.pop()
            own = name if name in settings.arms else name.rpartition("-try")[0]
            if own not in arms:
                arms[own] = settings.arms[own].model_dump()
                waiting += [needed for needed, _ in settings.needs(name, seed)]
        found[settings.folder_of(arm, seed)] = (shared, arms)
    return found


def _all(settings: Parts) -> list[tuple[str, int]]:
    return [(arm, seed) for arm in settings.names() for seed in settings.seeds_of(arm)]


def _settings(recipe: schema.Recipe) -> schema.Strict:
    """What a recipe's kind reads of it: a run's has the defaults written out."""
    return schema.parse(kind(recipe.kind).Settings, recipe.settings, f"[settings] of the recipe '{recipe.name}'")


def main(words: Sequence[str]) -> None:
    """Keep parts, or begin a run with them."""
    match list(words):
        case ["keep", run]:
            print("kept: " + (", ".join(keep(Path(run))) or "nothing new"))
        case ["lay", name, size, run]:
            laid = lay(name, size, Path(run))
            left = sorted({one.parent.name for one in shelf(name, size).glob(f"*/{RESULT}")} - set(laid))
            print(f"{run} begins with: {', '.join(laid)}" + (f"; outdated: {', '.join(left)}" if left else ""))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except GracileError as error:
        sys.exit(f"gracile: {error}")
