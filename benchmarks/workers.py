"""Workers in one process: stacked steps beside a loop over the workers, and rounds of gossip over real processes.

Usage: python benchmarks/workers.py [--processes]. One thread; ratios of medians of alternating rounds. The loop is what one would
write without this room: a module and an optimiser for each worker. Both draw their batches from the same shards.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from gracile.data import Dataset
from gracile.models import mlp
from gracile.workers import Classification, InProcess, hosting, launch, network, shards

WORKERS = 64


def alternating(runs: dict[str, Callable[[], object]], rounds: int = 9) -> dict[str, float]:
    """Median milliseconds of each, run in turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if round_:  # the first one warms up
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in times.items()}


def problem(
    batch_size: int, *, exact: bool, widths: tuple[int, ...] = (100,), workers: int = WORKERS
) -> Classification:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (6400, 1, 28, 28), generator=random, dtype=torch.uint8)
    labels = torch.randint(10, (6400,), generator=random)
    data = Dataset(images, labels, tuple("0123456789"), "noise")
    parts = dict(enumerate(shards(labels, workers)))
    torch.manual_seed(0)
    return Classification(mlp(widths=widths), data, parts, batch_size=batch_size, exact=exact)


def steps(batch_size: int) -> None:
    """One step of every worker: stacked, worker by worker on flat rows, and as modules with optimisers."""
    stacked, single = problem(batch_size, exact=False), problem(batch_size, exact=True)
    x = torch.stack([stacked.start(worker) for worker in range(WORKERS)])
    y = x.clone()
    modules = [copy.deepcopy(stacked.network) for _ in range(WORKERS)]
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.01) for module in modules]
    step = 0

    def loop() -> None:
        for worker, (module, optimizer) in enumerate(zip(modules, optimizers, strict=True)):
            inputs, labels = stacked.batch(worker, step)
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(inputs), labels).backward()
            optimizer.step()

    found = alternating(
        {
            "loop": loop,
            "exact": lambda: single.descend(y, step, 0.01),
            "stacked": lambda: stacked.descend(x, step, 0.01),
        }
    )
    print(
        f"  batch {batch_size:3d}: loop {found['loop']:6.1f} ms, exact {found['exact']:6.1f} ms, "
        f"stacked {found['stacked']:6.1f} ms: {found['loop'] / found['stacked']:4.1f} x the loop"
    )


def gossip(channel: Any, size: int) -> list[float]:
    """Milliseconds of rounds of gossip on the two-star graph with rows of `size` floats."""
    joined = network("two-star", 6, channel=channel)
    rows = torch.randn(len(joined.local), size)
    times = []
    for _ in range(12):
        start = time.perf_counter()
        rows = joined.mix(rows)
        times.append(1e3 * (time.perf_counter() - start))
    return times[2:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", action="store_true", help="rounds over real processes too")
    torch.set_num_threads(1)
    print(f"{WORKERS} workers of a 784-100-10 network, one step of each")
    for batch_size in (1, 4, 8, 16, 32, 64):
        steps(batch_size)
    if parser.parse_args().processes:
        print("a round of gossip, six workers of 1.8 million floats on the two-star graph")
        print(f"  in one process {statistics.median(gossip(InProcess(6), 1_800_000)):6.1f} ms")
        for processes in (2, 3, 6):
            found = launch(gossip, 6, processes, 1_800_000).results
            took = statistics.median(time for times in found for time in times)
            print(f"  {processes} processes, {hosting(6, processes)}: {took:6.1f} ms")


if __name__ == "__main__":
    main()
