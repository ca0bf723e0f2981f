"""Walks: the rate of simulation beside stepping one step at a time, and the time of an exact diffusivity.

The loop beside it is what one would write in C: one step at a time, compiled here where there is a compiler. Times are for one step of one
walker; a long walk is one of 10^9 steps, the others of 10^7 and less.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.protocol import Call, Case
from gracile.walks import SenileWalk

# As the walk is defined, with noise that is always 1, the cheapest: the walker crosses the edge again with probability
# 1 - (2d - 1) / (2d + m) - delta after m crossings in a row, else leaves by one of the others.
NAIVE = """
#include <stdint.h>
static uint64_t s;
static uint64_t next(void) { s ^= s << 13; s ^= s >> 7; s ^= s << 17; return s; }
double run(long steps, int d, double delta) {
    s = 88172645463325252u;
    long place[3] = {0, 0, 0}, m = 1;
    int way = 0;
    double far = 0;
    for (long n = 0; n < steps; n++) {
        if (n) {
            int back = (way + d) % (2 * d);
            if ((next() >> 11) * 0x1.0p-53 < 1 - (2.0 * d - 1) / (2 * d + m) - delta) { way = back; m++; }
            else { way = (back + 1 + next() % (2 * d - 1)) % (2 * d); m = 1; }
        }
        place[way % d] += way < d ? 1 : -1;
    }
    for (int k = 0; k < d; k++) far += (double) place[k] * place[k];
    return far;
}
"""


def naive(folder: Path, steps: int, dim: int) -> Call | None:
    """The compiled loop; None without a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    (folder / "naive.c").write_text(NAIVE)
    subprocess.run(
        [compiler, "-O3", "-march=native", "-shared", "-fPIC", "-o", "naive.so", "naive.c"], cwd=folder, check=True
    )
    run = ctypes.CDLL(str(folder / "naive.so")).run
    run.argtypes, run.restype = [ctypes.c_long, ctypes.c_int, ctypes.c_double], ctypes.c_double
    return lambda: run(steps, dim, 1e-3)


def cases(small: bool) -> Iterator[Case]:
    walkers = 50 if small else 5000
    for dim in (1, 2, 3):
        walk = SenileWalk(dim, delta=1e-3)
        amounts = {
            "steps": ("steps", 20 if small else 2_000),
            "edges": ("edges", 200 if small else 20_000),
            "batches": ("batches", 1000 if small else 10**7),
        }
        if dim == 1:
            # The longer the walk, the larger the batches.
            amounts["batches, a long walk"] = "batches", 2000 if small else 10**9
        calls: dict[str, Call] = {
            name: partial(walk.simulate, steps, walkers, 1, method=method, records=1)
            for name, (method, steps) in amounts.items()
        }
        units = {name: steps * walkers for name, (_, steps) in amounts.items()}
        base, goals = "steps", {}
        with tempfile.TemporaryDirectory() as folder:
            alone = 10**5 if small else 10**8
            loop = naive(Path(folder), alone, dim)
            if loop is not None:
                base = "a naive compiled loop"
                calls, units[base], goals = {base: loop, **calls}, alone, {"batches": 1 / 20}
            yield Case(f"d = {dim}, delta = 1e-3, a step", base, calls, units=units, goals=goals, rounds=3)
    exact = {
        f"d = {dim}, {noise or 'model I'}": lambda dim=dim, noise=noise: SenileWalk(
            dim, delta=1e-12, noise=noise
        ).diffusivity()
        for dim in (1, 2, 3)
        for noise in (None, "half-cauchy")
    }
    yield Case("exact diffusivity, delta = 1e-12", "d = 1, model I", exact)
