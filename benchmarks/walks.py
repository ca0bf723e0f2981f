"""Walks: time of an exact diffusivity, and the effective rate of simulation beside stepping one step at a time.

Usage: python benchmarks/walks.py [--full]. `--full` runs 10,000 walkers to 1e8 steps on two threads.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

from gracile.walks import SenileWalk

# Steps a second of a naive compiled loop, one step at a time on one thread; for scale only.
COMPILED = 8e7


def timed(run: Callable[[], object], repeat: int = 1) -> float:
    """The median of `repeat` wall times in seconds."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="10,000 walkers to 1e8 steps")
    full = parser.parse_args().full
    print("exact nu, median of 5 fresh walks")
    for dim in (1, 2, 3):
        for noise in (None, "half-cauchy"):
            took = timed(lambda: SenileWalk(dim, delta=1e-12, noise=noise).diffusivity(), 5)  # noqa: B023
            print(f"  d = {dim}, delta = 1e-12, {noise or 'model I':<12} {1e3 * took:7.1f} ms")
    print("simulation in d = 1, delta = 1e-3: walker steps per second, one thread")
    walk = SenileWalk(1, delta=1e-3)
    rates = {}
    for method, steps, walkers in (("steps", 2_000, 5000), ("edges", 20_000, 5000), ("batches", 10**7, 5000)):
        took = timed(lambda: walk.simulate(steps, walkers, 1, method=method, records=1))  # noqa: B023
        rates[method] = steps * walkers / took
        ratio = rates[method] / rates["steps"]
        compiled = rates[method] / COMPILED
        print(f"  {method:<8} {rates[method]:9.3g}   {ratio:9.1f} x step by step   {compiled:9.2f} x compiled loop")
    if full:
        start = time.perf_counter()
        seen = walk.simulate(10**8, 10_000, 1, records=20, workers=2)
        took = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"10,000 walkers to 1e8 steps, 20 records, two threads: {took:.1f} s, {1e12 / took:.3g} steps/s")
        print(f"  {1e12 / took / COMPILED:.0f} x compiled loop; peak memory {peak:.0f} MiB")
        print(f"  law error at most {seen.law_error:.1e} in total variation")
        print(f"  nu {seen.nu:.5f} +- {seen.nu_error:.5f}, exact {walk.diffusivity().nu:.5f}")


if __name__ == "__main__":
    main()
