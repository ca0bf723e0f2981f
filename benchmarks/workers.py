"""Workers in one process: stacked steps beside a loop over the workers, and rounds of gossip over real processes.

One thread. The loop is what one would write without this room: a module and an optimiser for each worker. Both draw their batches from the
same shards. The products alone are the arithmetic of a step, by torch.bmm on contiguous tensors that lie ready, with no batch, no bias, no
activation, no loss. By itself: ``python -m benchmarks.workers [--memory [WORKERS]] [--processes]``.
"""

from __future__ import annotations

import argparse
import copy
import os
import resource
import statistics
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from benchmarks.protocol import Case
from gracile.data import Dataset
from gracile.models import mlp
from gracile.workers import Classification, InProcess, hosting, launch, method, network, shards, train

WORKERS = 64
# Methods whose memory is measured.
MEASURED: dict[str, dict[str, Any]] = {
    "choco": {"compress": "int8", "gamma": 0.1}, "dsgd": {}, "average": {}, "gradient-tracking": {},
    "fedopt": {"optimizer": "adam"}, "scaffold": {},
}  # fmt: skip


def problem(
    batch_size: int, *, exact: bool, widths: tuple[int, ...] = (100,), workers: int = WORKERS, samples: int = 6400
) -> Classification:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (samples, 1, 28, 28), generator=random, dtype=torch.uint8)
    labels = torch.randint(10, (samples,), generator=random)
    data = Dataset(images, labels, tuple("0123456789"), "noise")
    parts = dict(enumerate(shards(labels, workers)))
    torch.manual_seed(0)
    return Classification(mlp(widths=widths), data, parts, batch_size=batch_size, exact=exact)


def cases(small: bool) -> Iterator[Case]:
    torch.set_num_threads(1)
    for batch_size in (1,) if small else (1, 4, 8, 16, 32, 64):
        yield steps(batch_size)


def steps(batch_size: int) -> Case:
    """One step of every worker: stacked, worker by worker on flat rows, as modules with optimisers, and its products."""
    stacked, single = problem(batch_size, exact=False), problem(batch_size, exact=True)
    x = torch.stack([stacked.start(worker) for worker in range(WORKERS)])
    y = x.clone()
    modules = [copy.deepcopy(stacked.model) for _ in range(WORKERS)]
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.01) for module in modules]
    step = 0

    def loop() -> None:
        for worker, (module, optimizer) in enumerate(zip(modules, optimizers, strict=True)):
            inputs, labels = stacked.batch(worker, step)
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(inputs), labels).backward()
            optimizer.step()

    sizes = [784, 100, 10]
    weights = [torch.randn(WORKERS, b, a) / a for a, b in pairwise(sizes)]
    values = [torch.randn(WORKERS, batch_size, size) for size in sizes]

    def floor() -> None:
        for number, weight in enumerate(weights):
            torch.bmm(values[number], weight.mT)
            weight.baddbmm_(values[number + 1].mT, values[number], alpha=-1e-9)
        torch.bmm(values[2], weights[1])

    contenders = {
        "a loop over modules": loop,
        "worker by worker": lambda: single.descend(y, step, 0.01),
        "stacked": lambda: stacked.descend(x, step, 0.01),
        "its products alone": floor,
    }
    return Case(
        f"{WORKERS} workers of a 784-100-10 network, batch {batch_size}", "a loop over modules", contenders,
        goals={"stacked": 1 / 3}, clock="cores",
    )  # fmt: skip


def memory(workers: int, name: str, **options: Any) -> None:
    """Two rounds of many stacked workers at batch 32, and the most memory this process ever took, beyond that of its start."""
    # In a process of its own, whose peak is not that of another method.
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    given = problem(32, exact=False, workers=workers, samples=32 * workers)
    train(network("star", workers), method(name, lr=0.01, **options), given, 2, every=2)
    took = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(
        f"  {name:9s} {took / 1024:6.0f} MiB, {1024 * took / workers / 4 / given.start(0).numel():4.1f} times the weights; "
        f"{time.process_time() - start:.0f} s",
        flush=True,
    )
    os._exit(0)


def gossip(transport: Any, size: int) -> list[float]:
    """Milliseconds of rounds of gossip on the two-star graph with rows of `size` floats."""
    joined = network("two-star", 6, transport=transport)
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
    parser.add_argument(
        "--memory", nargs="?", type=int, const=1000, help="of that many stacked workers, 1000 by default"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.memory:
        print(f"{args.memory} stacked workers of a 784-100-10 network, two rounds on a star", flush=True)
        for name, options in MEASURED.items():
            memory(args.memory, name, **options)
        return
    if args.processes:
        print("a round of gossip, six workers of 1.8 million floats on the two-star graph")
        print(f"  in one process {statistics.median(gossip(InProcess(6), 1_800_000)):6.1f} ms")
        for processes in (2, 3, 6):
            found = launch(gossip, 6, processes, 1_800_000).results
            took = statistics.median(time for times in found for time in times)
            print(f"  {processes} processes, {hosting(6, processes)}: {took:6.1f} ms")


if __name__ == "__main__":
    main()
