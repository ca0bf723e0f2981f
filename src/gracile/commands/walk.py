"""Diffusivity of senile reinforced random walks, exact and simulated.

  gracile walk --dim 1 --delta 0.01 --model I             nu with its bound, and as simulated
  gracile walk --delta 0.1 --noise pareto:0.5 --out walk  model II, and a picture of its growth
  gracile walk sweep                                      nu(delta) for theorems 2.3 to 2.6, drawn

In Python: gracile.walk for numbers, gracile.walks.SenileWalk for the walk.
"""

from __future__ import annotations

import argparse

from gracile.commands import Answer, options


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("what", nargs="?", choices=["one", "sweep"], default="one", help="one walk (default), or the sweep of pictures")
    add("--dim", type=int, default=1, help="dimension d (default: 1)")
    add("--delta", type=float, default=0.0, help="strength of the perturbation (default: 0)")
    add("--model", choices=["I", "II", "III"], help="I fixed, II random, III growing (default: by --noise)")
    add(
        "--noise",
        help="half-cauchy, pareto:J, log-pareto, exponential, uniform (model II), half-normal-n, gamma-n, lognormal-n or "
        "two-point-n (model III)",
    )
    add("--reinforcement", default="identity", help="identity, a number C for C m, constant:C or power:C,P")
    add("--clock", choices=["edge", "walk"], default="edge", help="what n counts in model III (default: edge)")
    add("--steps", type=int, default=100_000, help="steps of the simulation; 0 for none (default: 100000)")
    add("--walkers", type=int, default=2000, help="walkers of the simulation (default: 2000)")
    add("--workers", type=int, default=1, help="threads (default: 1)")
    add("--method", default="auto", help="auto, steps, edges or batches")
    options.seed(parser)
    options.out(parser, "folder for the pictures (default: runs/walk-sweep-N for sweep, none for one walk)")


def run(args: argparse.Namespace) -> Answer:
    from gracile.core.runs import RUNS, new_folder
    from gracile.walks import summary

    if args.what == "sweep":
        return Answer.of(summary.sweep(args.out or new_folder(RUNS, "walk-sweep"), args.seed))
    return Answer.of(summary.walk(**options.arguments(summary.walk, args), folder=args.out))
