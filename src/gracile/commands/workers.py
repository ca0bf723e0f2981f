"""Train one network over many workers, and see how they agree and what it costs.

  gracile workers --graph two-star --method average --data mnist
  gracile workers --graph ring --workers 16 --method choco --compress top-k:0.01 --split label
  gracile workers --graph star --processes 6          each worker in a process of its own: the same bits
  torchrun --nproc-per-node 2 -m gracile workers ...  the same, on one machine or many

The run's folder holds pictures of the graph, each worker's accuracy, the consensus distance against its bound, and bytes.
"""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import Any


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--graph", default="ring", help="star, two-star, path, ring, torus, exponential, random-regular:D, complete"
    )
    parser.add_argument("--edges", help="pairs of workers in place of --graph, such as 0-1,1-2")
    parser.add_argument("--workers", type=int, default=6, help="how many (default: 6)")
    parser.add_argument(
        "--method", default="dsgd", help="average, two-star, dsgd, gradient-tracking, choco or admm (default: dsgd)"
    )
    parser.add_argument("--data", default="digits", help="a path, a data set's name, or OWNER/NAME (default: digits)")
    parser.add_argument("--split", default="iid", help="iid, label or dirichlet:ALPHA (default: iid)")
    parser.add_argument("--rule", default="metropolis", help="mixing weights: metropolis, max-degree or optimal")
    parser.add_argument("--model", default="mlp", help="a network's name (default: mlp)")
    parser.add_argument("--widths", default="100", help="hidden units of an mlp (default: 100)")
    parser.add_argument("--rounds", type=int, default=100, help="rounds (default: 100)")
    parser.add_argument("--local-steps", type=int, help="steps a round (default: 10, where the method has them)")
    parser.add_argument("--batch-size", type=int, default=32, help="samples a worker takes a step (default: 32)")
    parser.add_argument("--lr", type=float, default=0.05, help="learning rate (default: 0.05)")
    parser.add_argument("--compress", help="choco: none, float16, int8, top-k:SHARE or sign")
    parser.add_argument("--gamma", type=float, help="choco: consensus step in (0, 1]")
    parser.add_argument("--rho", type=float, help="admm: penalty")
    parser.add_argument("--gossip", type=int, help="dsgd, admm: rounds of gossip an exchange")
    parser.add_argument("--asynchronous", action="store_true", help="admm: go on from what was last heard")
    parser.add_argument("--drop", type=float, default=0.0, help="share of messages lost (default: 0)")
    parser.add_argument("--processes", type=int, default=1, help="real processes; 1 hosts all workers in this one")
    parser.add_argument(
        "--patience", type=float, help="seconds to wait for a late message (default: as long as it takes)"
    )
    parser.add_argument("--restarts", type=int, default=0, help="killed processes that are started again (default: 0)")
    parser.add_argument("--exact", action="store_true", help="in one process, the bits that several would give")
    parser.add_argument("--every", type=int, default=10, help="rounds between measurements (default: 10)")
    parser.add_argument("--train-limit", type=int, help="a stratified subset of the training data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="the run's folder (default: runs/workers-1, -2, ...)")
    parser.add_argument(
        "--data-root", type=Path, help="folder with a folder a data set (default: the variable GRACILE_DATA)"
    )


def run(args: argparse.Namespace) -> int:
    from gracile.commands.running import execute
    from gracile.recipes.schema import Recipe

    data: dict[str, Any] = {"name": args.data}
    if args.train_limit is not None:
        data["train_limit"] = args.train_limit
    arm: dict[str, Any] = {
        "graph": args.graph, "workers": args.workers, "rule": args.rule, "split": args.split,
        "method": args.method, "options": _options(args), "drop": args.drop,
    }  # fmt: skip
    if args.edges is not None:
        arm["edges"] = _edges(args.edges)
    settings: dict[str, Any] = {
        "data": data,
        "model": {"name": args.model, "options": _model_options(args)},
        "training": {
            "rounds": args.rounds, "batch_size": args.batch_size, "every": args.every, "exact": args.exact,
        },
        "arms": {args.method: arm},
        "seeds": [args.seed],
        "processes": args.processes,
        "restarts": args.restarts,
    }  # fmt: skip
    if args.patience is not None:
        settings["patience"] = args.patience
    recipe = Recipe(name="workers", title=f"{args.method} on {args.graph}", kind="workers", settings=settings)
    return execute(recipe, out=args.out, data_root=args.data_root)


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """What is said on the command line for the method; what it does not know, it refuses by name."""
    from gracile.core.errors import pick
    from gracile.workers import METHODS

    known = inspect.signature(pick(METHODS, args.method, "method")).parameters
    given = {
        "local_steps": args.local_steps, "compress": args.compress, "gamma": args.gamma, "rho": args.rho,
        "gossip": args.gossip, "asynchronous": args.asynchronous or None,
    }  # fmt: skip
    options = {name: value for name, value in given.items() if value is not None}
    for name, value in {"lr": args.lr, "local_steps": 10, "seed": args.seed}.items():
        if name in known:
            options.setdefault(name, value)
    return options


def _model_options(args: argparse.Namespace) -> dict[str, Any]:
    from gracile.core.errors import InputError

    if args.model != "mlp":
        return {}
    try:
        return {"widths": [int(width) for width in args.widths.split(",") if width]}
    except ValueError:
        raise InputError(f"--widths takes whole numbers, not '{args.widths}'.", "Write --widths 300,100.") from None


def _edges(text: str) -> list[list[int]]:
    from gracile.core.errors import InputError

    try:
        pairs = [[int(end) for end in pair.split("-")] for pair in text.split(",")]
    except ValueError:
        pairs = []
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise InputError(f"--edges takes pairs of workers, not '{text}'.", "Write --edges 0-1,1-2.")
    return pairs
