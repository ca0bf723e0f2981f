"""The one-layer theory: many random starts at once, in all, and beside one start after the other.

Usage: python benchmarks/one_layer.py [--starts 10000] [--steps 500]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from gracile.one_layer import random_starts, rvscgd, rvsm, sparse_teacher

D, K = 50, 10
METHODS = {"rvsm": (rvsm, 0.4), "rvscgd": (rvscgd, 0.2)}


def timed(run: Callable[[], object]) -> float:
    """Wall time in seconds."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    w_star, w = sparse_teacher(D, 5), random_starts(args.starts, D)
    print(f"{args.starts} starts, d = {D}, k = {K}, {args.steps} steps, {torch.get_num_threads()} thread(s)")
    for name, (method, lr) in METHODS.items():
        for penalty in ("l1", "l0"):
            settings = {"lam": 1e-3, "beta": 0.02, "lr": lr, "steps": args.steps, "penalty": penalty}
            took, ratios = [], []
            for _ in range(args.rounds):
                together = timed(lambda: method(w, w_star, K, **settings))  # noqa: B023
                # A few one after the other, scaled up to as many.
                single = timed(lambda: [method(one, w_star, K, **settings) for one in w[:5]]) / 5  # noqa: B023
                took.append(together)
                ratios.append(single * args.starts / together)
            print(f"  {name:<7} {penalty}  {min(took):6.2f} s   {min(ratios):6.0f} x faster than one after the other")


if __name__ == "__main__":
    main()
