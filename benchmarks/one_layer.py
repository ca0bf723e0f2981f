"""The one-layer theory: many random starts at once, beside one start after the other."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.protocol import Case
from gracile.one_layer import random_starts, rvscgd, rvsm, sparse_teacher

D, K = 50, 10
METHODS = {"rvsm": (rvsm, 0.4), "rvscgd": (rvscgd, 0.2)}
# So many one after the other; times are for one start.
ALONE = 5


def cases(small: bool) -> Iterator[Case]:
    starts, steps = (50, 5) if small else (10_000, 500)
    w_star, w = sparse_teacher(D, 5), random_starts(starts, D)
    for name, (method, lr) in METHODS.items():
        for penalty in ("l1", "l0"):
            settings = {"lam": 1e-3, "beta": 0.02, "lr": lr, "steps": steps, "penalty": penalty}
            yield Case(
                f"{name}, {penalty}, {starts} starts, d = {D}, {steps} steps, for one start", "one after the other",
                {
                    "one after the other": lambda m=method, s=settings: [m(one, w_star, K, **s) for one in w[:ALONE]],
                    "at once": lambda m=method, s=settings: m(w, w_star, K, **s),
                },
                units={"one after the other": ALONE, "at once": starts}, rounds=3,
            )  # fmt: skip
