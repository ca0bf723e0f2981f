"""Relaxed splitting on the one-layer network of theorems 3.1 and 3.2, from many random starts.

  gracile one-layer --theorem 3.1 --delta 0.5    which hypotheses are met, what became of the starts
  gracile one-layer --theorem 3.2 --beta 0.5 --lam 0.02 --samples 4000
                                                 the step function; 4 starts also on samples

By default beta is the largest that delta = 0.5 admits, lam zeroes weights up to half of 1/sqrt(d),
and lr is the largest that the theorem admits. In Python: gracile.one_layer.summary.one_layer.
"""

from __future__ import annotations

import argparse

from gracile.commands import Answer, options


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--theorem", choices=["3.1", "3.2"], default="3.1", help="3.1 ReLU (default), 3.2 step function")
    add("--dim", type=int, default=50, help="dimension d of a patch (default: 50)")
    add("--patches", type=int, default=10, help="patches k (default: 10)")
    add("--nonzero", type=int, default=5, help="non-zero entries of the teacher (default: 5)")
    add("--starts", type=int, default=1000, help="random starts (default: 1000)")
    add("--steps", type=int, default=500, help="steps of each (default: 500)")
    add("--penalty", default="l1", help="a penalty on single weights (default: l1)")
    add("--delta", type=float, help="the theorem's delta (default: 0.5, or the least that --beta needs)")
    add("--beta", type=float, help="coupling (default: the largest that delta admits)")
    add("--lam", type=float, help="weight of the penalty (default: zeroes weights up to 1/(2 sqrt(d)))")
    add("--lr", type=float, help="step size (default: the largest that the theorem admits)")
    add("--samples", type=int, help="also run on so many inputs, from 4 of the starts")
    add("--require", action="store_true", help="stop where the theorem does not cover the setting")
    options.seed(parser)
    options.out(parser, "folder for the picture (default: runs/one-layer-N)")


def run(args: argparse.Namespace) -> Answer:
    from gracile.core.runs import RUNS, new_folder
    from gracile.one_layer.summary import one_layer

    asked = options.arguments(one_layer, args)
    return Answer.of(one_layer(**asked, folder=args.out or new_folder(RUNS, "one-layer")))
