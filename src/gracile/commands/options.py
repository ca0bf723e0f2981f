"""Options that several commands have, written once, and the reading of what follows them."""

from __future__ import annotations

import argparse
import inspect
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gracile.commands import Answer
from gracile.core.errors import InputError

if TYPE_CHECKING:
    from gracile.deploy import Candidate


DATA = "a folder of images by class, a parquet, csv or npz file, digits or another named data set, or OWNER/NAME on the hub"


def seed(parser: argparse.ArgumentParser) -> None:
    """Where randomness begins."""
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn at random (default: 0)")


def out(parser: argparse.ArgumentParser, text: str) -> None:
    """Where results go; `text` says to what, and the default."""
    parser.add_argument("--out", type=Path, metavar="PATH", help=text)


def size(parser: argparse.ArgumentParser) -> None:
    """How much of a recipe is done."""
    parser.add_argument("--size", default="full", help="one of the recipe's sizes: full, cpu, smoke (default: full)")


def where(parser: argparse.ArgumentParser) -> None:
    """Where a recipe runs, in which processes, and whether it is continued."""
    out(parser, "the run's folder (default: runs/NAME-1, -2, ...)")
    add = parser.add_argument
    add("--resume", action="store_true", help="continue the run in --out, or the newest of this recipe")
    add("--dry-run", action="store_true", help="say what would be trained, how large and how long, and stop")
    add("--jobs", type=int, default=1, help="arms trained at once, each in a process of its own (default: 1)")
    add(
        "--only", action="append", default=[], metavar="ARM[:SEED]",
        help="train this arm, or those of a pattern such as '*_50', and what they need; whichever process finishes the last one writes "
        "the table; repeatable",
    )  # fmt: skip
    add(
        "--track", action="append", default=[], metavar="TRACKER",
        help="show the run in tensorboard, mlflow or wandb, or in FILE.py:NAME, a tracker of your own; repeatable",
    )  # fmt: skip
    add("--cluster", metavar="ADDRESS", help="train the arms on a Dask scheduler's workers, such as tcp://host:8786")
    data_root(parser)


def data(parser: argparse.ArgumentParser, text: str) -> None:
    """Which data, and how they are read."""
    parser.add_argument("--data", help=f"{text}: {DATA}")
    reading(parser)


# Arguments of `gracile.data.load` that are options of every command that reads data.
READING = ("label", "image_size", "channels", "missing", "skip_corrupt")


def reading(parser: argparse.ArgumentParser) -> None:
    """How data are read."""
    add = parser.add_argument
    add("--label", metavar="COLUMN", help="the label's column, where it is not found by itself")
    add("--image-size", type=int, metavar="PIXELS", help="resize images to this")
    add("--channels", type=int, choices=[1, 3], help="what images become: 1 gray, 3 colour (default: as they are)")
    cells = "empty cells of a table: an error (default), the column's mean, or their rows are dropped"
    add("--missing", choices=["error", "mean", "drop"], help=cells)
    add("--skip-corrupt", action="store_true", default=None, help="leave out images that cannot be read, and say which")


def how_read(args: argparse.Namespace) -> dict[str, Any]:
    """What was given of the options of `reading`, as `gracile.data.load` takes it."""
    return {name: value for name in READING if (value := getattr(args, name)) is not None}


def arguments(function: Callable[..., Any], args: argparse.Namespace) -> dict[str, Any]:
    """What was asked for of a function of the library: its arguments that are options under the same name."""
    return {name: getattr(args, name) for name in inspect.signature(function).parameters if hasattr(args, name)}


def key_values(option: str, texts: list[str], example: str) -> dict[str, Any]:
    """KEY=VALUE, the value as TOML has it; a bare word is a string.

    Raises:
        InputError: there is no equals sign.
    """
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{option} takes KEY=VALUE, not '{text}'.", f"Write {option} {example}.")
        try:
            found[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[key] = value
    return found


def data_root(parser: argparse.ArgumentParser) -> None:
    """Where named data sets lie."""
    parser.add_argument(
        "--data-root", "--root", type=Path, metavar="FOLDER",
        help="folder with a folder for each data set (default: the variable GRACILE_DATA)",
    )  # fmt: skip


def candidate(parser: argparse.ArgumentParser, data_for: str = "data for a network of your own") -> None:
    """A trained network: of a run, or of the user's own, and its data."""
    add = parser.add_argument
    add("source", metavar="RUN|FILE.py:FUNCTION", help="a run's folder, or a function that returns a network")
    add("--arm", help="the run's arm (default: its first with a method)")
    add("--weights", type=Path, metavar="FILE", help="a safetensors file with the weights of your own network")
    data(parser, data_for)
    data_root(parser)
    add("--seed", type=int, help="the run's seed (default: its first)")


def read_candidate(args: argparse.Namespace, *, other_data: bool = False) -> tuple[Candidate, Path]:
    """The network that the options of `candidate` name, and where files about it go by default.

    Args:
        args: as parsed.
        other_data: whether a run's network may be held against other data than its own.

    Raises:
        InputError: an option that does not go with the network, or what cannot be used.
    """
    import dataclasses

    from gracile.core.user_code import is_reference
    from gracile.data import load

    own, of_data = is_reference(args.source), () if other_data else ("data", *READING)
    for name in ("arm", "seed") if own else ("weights", "shape", *of_data):
        if getattr(args, name, None) is not None:
            which = "a network of your own" if own else "a run"
            raise InputError(f"--{name.replace('_', '-')} does not go with {which}.", "Leave it out.")
    shape = tuple(numbers("--shape", text)) if (text := getattr(args, "shape", None)) is not None else None
    read = None if args.data is None else load(args.data, **how_read(args))
    if own:
        from gracile.deploy import from_file

        return from_file(args.source, weights=args.weights, data=read, shape=shape), Path()
    from gracile.recipes.trained import trained

    found = trained(args.source, args.arm, args.seed)
    return found if read is None else dataclasses.replace(found, data=read), Path(args.source)


def run_recipe(args: argparse.Namespace, recipe: str | None, changes: dict[str, Any]) -> Answer:
    """Run a recipe as the options of `where` say."""
    from gracile.recipes import request, runner

    if args.dry_run:
        return Answer.of(runner.rehearse(request.prepare(recipe, **changes)))
    where = {name: getattr(args, name) for name in ("resume", "only", "jobs", "cluster", "track")}
    return Answer.of(request.run(recipe, folder=args.out, **where, **changes))


def numbers(option: str, text: str, *, least: int = 1) -> list[int]:
    """Whole numbers, separated by commas.

    Raises:
        InputError: something else stands there.
    """
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found or min(found) < least:
        remedy = f"Write {option} {least},{least + 1} for instance."
        raise InputError(f"{option} takes whole numbers from {least} on, not '{text}'.", remedy)
    return found


def fraction(option: str, text: str) -> float:
    """A number such as ``0.03`` or ``8/255``.

    Raises:
        InputError: it is neither.
    """
    above, slash, below = text.partition("/")
    try:
        return float(above) / (float(below) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"{option} takes a number, not '{text}'.", f"Write {option} 8/255 or {option} 0.03.") from None
