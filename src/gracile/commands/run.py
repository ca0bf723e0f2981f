"""Train a dense network and its sparse twin, from a recipe or on your own data.

  gracile run digits                      a recipe that ships with gracile
  gracile run my-recipe.toml              your own
  gracile run --data photos/              a folder of images by class, a parquet data set, a CSV or an .npz
  gracile run --resume --out runs/digits-1   go on after Ctrl-C or a crash

Every run leaves a folder with the resolved recipe, metrics, environment, checkpoints, plots and a log.
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

TARGETS = {
    "macs": "this share of multiply-adds stays after physical removal",
    "params": "this share of parameters stays after physical removal",
    "sparsity": "this share of all parameters is zero",
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", help="a shipped recipe's name, or a TOML file (default: classify)")
    parser.add_argument("--data", help="your data: a path, a data set's name, or OWNER/NAME on the hub")
    parser.add_argument("--model", help="a network's name, such as resnet20")
    parser.add_argument("--epochs", type=int, help="passes over the training data")
    parser.add_argument("--batch-size", type=int, help="samples a step")
    parser.add_argument("--lr", type=float, help="learning rate")
    parser.add_argument("--seeds", help="comma-separated seeds, such as 0,1,2")
    for budget, meaning in TARGETS.items():
        parser.add_argument(f"--target-{budget}", type=float, metavar="SHARE", help=f"steer lam so that {meaning}")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any setting, such as --set arms.rgsm.options.lam=0.05; repeatable",
    )
    parser.add_argument("--size", default="full", help="one of the recipe's sizes (default: full)")
    parser.add_argument("--device", help="cpu, cuda or auto")
    parser.add_argument("--out", type=Path, help="the run's folder (default: runs/NAME-1, -2, ...)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out, or the newest of this recipe")
    parser.add_argument(
        "--only", action="append", default=[], metavar="ARM[:SEED]",
        help="train this arm, with what it needs, in the run of --out, which others may share; repeatable",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, help="arms trained at once, each in a process (default: 1)")
    parser.add_argument("--cluster", metavar="tcp://HOST:PORT", help="a Dask scheduler whose workers train the arms")
    parser.add_argument(
        "--data-root", type=Path, help="folder with a folder a data set (default: the variable GRACILE_DATA)"
    )


def run(args: argparse.Namespace) -> int:
    from gracile.core.errors import InputError
    from gracile.recipes import schema

    changes = _changes(args)
    if args.resume and args.recipe is None and args.out is not None:
        if changes:
            raise InputError("A run is resumed with the settings it was started with.", "Leave out the other options.")
        from gracile.recipes.runner import started_recipe

        recipe = started_recipe(args.out)
    else:
        if args.recipe is None and args.data is None:
            raise InputError("There is nothing to run.", "Name a recipe, such as digits, or your data with --data.")
        recipe = schema.resized(schema.load(args.recipe or "classify"), args.size)
        settings = schema.merged(recipe.settings, changes)
        targets = {budget: value for budget in TARGETS if (value := getattr(args, f"target_{budget}")) is not None}
        if targets:
            for arm in settings.get("arms", {}).values():
                if arm.get("method") in ("rvsm", "rgsm"):
                    arm["target"] = targets
        recipe = recipe.model_copy(update={"settings": settings})

    from gracile.commands.running import execute

    return execute(
        recipe,
        out=args.out,
        resume=args.resume,
        data_root=args.data_root,
        only=args.only,
        jobs=args.jobs,
        cluster=args.cluster,
    )


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    """What the options change in a recipe's settings."""
    from gracile.core.errors import InputError
    from gracile.recipes.schema import merged

    training = {"epochs": args.epochs, "batch_size": args.batch_size, "lr": args.lr}
    changes: dict[str, Any] = {
        "data": {} if args.data is None else {"name": args.data},
        "model": {} if args.model is None else {"name": args.model},
        "training": {key: value for key, value in training.items() if value is not None},
    }
    if args.device is not None:
        changes["device"] = args.device
    if args.seeds is not None:
        try:
            changes["seeds"] = [int(seed) for seed in args.seeds.split(",")]
        except ValueError:
            raise InputError(f"--seeds takes whole numbers, not '{args.seeds}'.", "Write --seeds 0,1,2.") from None
    for text in args.set:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set takes KEY=VALUE, not '{text}'.", "Write --set training.lr=0.05.")
        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            # A bare word is a string: --set model.name=lenet needs no quotes.
            parsed = value
        for part in reversed(key.split(".")):
            parsed = {part: parsed}
        changes = merged(changes, parsed)
    return {key: value for key, value in changes.items() if value != {}}
