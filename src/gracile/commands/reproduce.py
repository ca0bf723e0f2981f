"""Run a published table or figure and print the published numbers beside ours.

Without a name it lists what can be reproduced. Sizes: `full` is the published setting, `cpu` a smaller one
that two cores finish, `smoke` takes seconds.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="a table or figure, such as table-4.1")
    parser.add_argument("--size", default="full", help="full, cpu or smoke (default: full)")
    parser.add_argument("--smoke", action="store_const", const="smoke", dest="size", help="the same as --size smoke")
    parser.add_argument("--out", type=Path, help="the run's folder (default: runs/NAME-1, -2, ...)")
    parser.add_argument(
        "--resume", action="store_true", help="continue the newest run of this recipe, or the one in --out"
    )
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
    from gracile.recipes import schema

    if args.name is None:
        for name, path in schema.shipped().items():
            if path.is_relative_to(schema.PAPERS):
                recipe = schema.load(name)
                print(f"{name:<14} {recipe.title}  [sizes: {', '.join(['full', *recipe.sizes])}]")
        return 0
    recipe = schema.resized(schema.load(args.name), args.size)

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
