"""Train one network over many workers, and see how they agree and what it costs.

  gracile workers --graph two-star --method average --data mnist
  gracile workers --graph ring --workers 16 --method choco --compress top-k:0.01 --split label
  gracile workers --graph star --method fedopt --option server=yogi --option server_lr=0.03
  gracile workers --graph star --processes 6     each worker in a process of its own: the same bits
  torchrun --nproc-per-node 2 -m gracile workers ...   the same, on one machine or many

The run's folder holds pictures of the graph, each worker's accuracy, the consensus distance against
its bound, and bytes. In Python: gracile.train_over_workers for a run,
gracile.workers for the parts.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from typing import Any

from gracile.commands import Answer, options
from gracile.core.errors import InputError

# Of `gracile.workers.METHODS`, which would bring torch along; the tests hold it to that.
METHODS = "admm, average, choco, diloco, dsgd, fedopt, fedprox, gradient-tracking, scaffold or two-star"
# What only some methods take; it is refused by name where the method has no such option.
OF_METHODS = ("local_steps", "compress", "gamma", "rho", "gossip")


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--graph", default="ring", help="star, two-star, path, ring, torus, exponential, random-regular:D, complete")
    add("--edges", help="pairs of workers in place of --graph, such as 0-1,1-2")
    add("--workers", type=int, default=6, help="how many (default: 6)")
    add("--method", default="dsgd", help=f"{METHODS} (default: dsgd)")
    other = "any option of the method, such as participation=0.5, optimizer=adam or mu=0.1; repeatable"
    add("--option", action="append", default=[], metavar="KEY=VALUE", help=other)
    options.data(parser, "the data (default: digits)")
    add("--split", default="iid", help="iid, label or dirichlet:ALPHA (default: iid)")
    add("--mixing", default="metropolis", help="mixing weights: metropolis, max-degree or optimal")
    add("--model", default="mlp", help="a network's name, or FILE.py:FUNCTION (default: mlp)")
    add("--widths", default="100", help="hidden units of an mlp (default: 100)")
    add("--rounds", type=int, default=100, help="rounds (default: 100)")
    add("--local-steps", type=int, help="steps per round (default: 10, where the method has them)")
    add("--batch-size", type=int, default=32, help="samples per worker and step (default: 32)")
    add("--lr", type=float, help="learning rate (default: the method's own)")
    add("--compress", help="choco: none, float16, int8, top-k:SHARE or sign")
    add("--gamma", type=float, help="choco: consensus step in (0, 1]")
    add("--rho", type=float, help="admm: penalty")
    add("--gossip", type=int, help="dsgd, admm: rounds of gossip per exchange")
    add("--asynchronous", action="store_true", help="admm: go on from what was last heard")
    add("--statistics", default="averaged", choices=["averaged", "local"], help="batch-norm's (default: averaged)")
    add("--drop", type=float, default=0.0, help="share of messages lost (default: 0)")
    add("--processes", type=int, default=1, help="real processes; 1 hosts all workers in this one")
    add("--patience", type=float, help="seconds to wait for a late message (default: as long as it takes)")
    add("--restarts", type=int, default=0, help="killed processes that are started again (default: 0)")
    add("--exact", action="store_true", help="in one process, the bits that several would give")
    add("--every", type=int, default=10, help="rounds between measurements (default: 10)")
    add("--train-limit", type=int, help="a stratified subset of the training data")
    options.seed(parser)
    options.out(parser, "the run's folder (default: runs/workers-1, -2, ...)")
    options.data_root(parser)


def run(args: argparse.Namespace) -> Answer:
    from gracile.recipes.over_workers import train_over_workers

    given: dict[str, Any] = {name: value for name in OF_METHODS if (value := getattr(args, name)) is not None}
    if args.asynchronous:
        given["asynchronous"] = True
    asked = options.arguments(train_over_workers, args)
    given |= _options(args.method, args.option, {*asked, *given})
    asked |= {"data": args.data or "digits", "edges": None if args.edges is None else _edges(args.edges)}
    asked["model_options"] = {"widths": options.numbers("--widths", args.widths)} if args.model == "mlp" else {}
    return Answer.of(train_over_workers(**asked, folder=args.out, **given))


def _options(name: str, texts: list[str], flagged: Collection[str]) -> dict[str, Any]:
    """What ``--option`` says, held against what the method's class takes.

    Raises:
        InputError: no such method, a value of another kind, or one that has a flag of its own.
    """
    from gracile.recipes.schema import typed_options
    from gracile.workers import METHODS

    found = typed_options(METHODS, name, options.key_values("--option", texts, "participation=0.5"))
    for key in found.keys() & set(flagged):
        raise InputError(f"{key} has a flag of its own.", f"Write --{key.replace('_', '-')} {found[key]}.")
    return found


def _edges(text: str) -> list[list[int]]:
    try:
        pairs = [[int(end) for end in pair.split("-")] for pair in text.split(",")]
    except ValueError:
        pairs = []
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise InputError(f"--edges takes pairs of workers, not '{text}'.", "Write --edges 0-1,1-2.")
    return pairs
