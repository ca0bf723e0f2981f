"""Relaxed splitting on the one-layer network of theorems 3.1 and 3.2, from many random starts.

`gracile one-layer` says which hypotheses the setting meets, runs it, and draws what was seen. By default beta is the
largest that delta = 0.5 admits, lam zeroes weights up to half of 1/sqrt(d), and lr is the largest that the theorem admits.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gracile.one_layer import Verification


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--theorem", choices=["3.1", "3.2"], default="3.1", help="3.1 ReLU (default), 3.2 step function"
    )
    parser.add_argument("--dim", type=int, default=50, help="dimension d of a patch (default: 50)")
    parser.add_argument("--patches", type=int, default=10, help="patches k (default: 10)")
    parser.add_argument("--nonzero", type=int, default=5, help="non-zero entries of the teacher (default: 5)")
    parser.add_argument("--starts", type=int, default=1000, help="random starts (default: 1000)")
    parser.add_argument("--steps", type=int, default=500, help="steps of each (default: 500)")
    parser.add_argument("--penalty", default="l1", help="a penalty on single weights (default: l1)")
    parser.add_argument(
        "--delta", type=float, help="the theorem's delta (default: 0.5, or the least that --beta needs)"
    )
    parser.add_argument("--beta", type=float, help="coupling (default: the largest that delta admits)")
    parser.add_argument("--lam", type=float, help="weight of the penalty (default: zeroes weights up to 1/(2 sqrt(d)))")
    parser.add_argument("--lr", type=float, help="step size (default: the largest that the theorem admits)")
    parser.add_argument("--samples", type=int, help="also run on so many inputs, from 4 of the starts")
    parser.add_argument("--require", action="store_true", help="stop where the theorem does not cover the setting")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for the picture (default: runs/one-layer-N)")


def run(args: argparse.Namespace) -> int:
    from gracile.commands.running import RUNS
    from gracile.core.runs import new_folder
    from gracile.one_layer import (
        critical_lam,
        largest_beta,
        pictures,
        random_starts,
        sample_deviation,
        sparse_teacher,
        verify,
    )

    theorem, k, d = args.theorem, args.patches, args.dim
    delta = 0.5 if args.delta is None and args.beta is None else args.delta
    beta = largest_beta(theorem, delta or 0.0, k) if args.beta is None else args.beta
    lam = critical_lam(args.penalty, beta, d, 0.5) if args.lam is None else args.lam
    w_star, w = sparse_teacher(d, args.nonzero, args.seed), random_starts(args.starts, d, args.seed)
    setting = {"lam": lam, "beta": beta, "steps": args.steps, "penalty": args.penalty}
    found = verify(theorem, w, w_star, k, **setting, lr=args.lr, delta=delta)
    if args.require:
        found.conditions.require()
    print(f"d = {d}, k = {k}, {args.penalty}: delta {found.conditions.delta:.4g}, beta {beta:.4g}, lam {lam:.4g}")
    print(f"\n{found.conditions}\n")
    _describe(found)
    if args.samples:
        lr = found.conditions.sufficient_lr / 2 if args.lr is None else args.lr
        ((n, deviation),) = sample_deviation(
            theorem, w[:4], w_star, k, [args.samples], **setting, lr=lr, seed=args.seed
        )  # fmt: skip
        print(f"on {n} inputs, 4 starts end {deviation:.3g} (root mean square) from where the exact risk leads")
    out = args.out or new_folder(RUNS, "one-layer")
    title = f"theorem {theorem}, d = {d}, k = {k}, β = {beta:.4g}, λ = {lam:.4g}, {len(w)} starts"
    print(
        f"picture  {pictures.trajectories(out / 'trajectories.png', {args.penalty: found.seen}, title, delta or found.conditions.delta)}"
    )
    return 0


def _describe(found: Verification) -> None:
    """What became of the starts, in words."""
    import math

    from tabulate import tabulate

    seen, limit = found.seen, found.limit
    theta = seen.theta
    share = float(found.admitted.double().mean())
    print(
        f"starts that the theorem covers: {100 * share:.2f} % (of all starts on the sphere: {100 * found.exact:.4g} %); "
        f"of them {100 * float(found.concluded[found.admitted].double().mean()) if share else math.nan:.2f} % end as it says"
    )
    print(f"starts that end as it says, covered or not: {100 * float(found.concluded.double().mean()):.2f} %")
    rows = [
        (name, *(float(value) for value in (values.min(), values.median(), values.max())))
        for name, values in (
            ("Lagrangian at the end", seen.lagrangian[-1]),
            ("its largest rise in one step", seen.lagrangian_rise),
            ("angle at the start", theta[0]),
            ("angle at the end", theta[-1]),
            ("|w - w*|", limit.distance),
            ("gradient at the end", seen.gradient[-1]),
            ("share of zeros in u", seen.sparsity[-1]),
            ("support recovered", seen.support[-1]),
            ("|w* - m (w - u) - C w|", limit.residual),
            ("C", limit.constant),
        )
    ]
    print("\n" + tabulate(rows, headers=["over all starts", "least", "median", "largest"], floatfmt=".4g") + "\n")
