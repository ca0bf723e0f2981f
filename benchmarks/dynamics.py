"""What watching costs: a training step with and without the monitor, in turns within one run.

    python benchmarks/dynamics.py [--rounds 30]

A watched block is ten steps with one record, a plain block ten steps without; the ratio is the median over rounds. Full records (all
singular values, the whole of D, the bounds) are timed by themselves and spread over the 1000 steps between two of them.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from gracile.core.memory import keep_freed_memory
from gracile.dynamics import watch
from gracile.models import build

EVERY, FULL_EVERY = 10, 1000


def case(name: str) -> tuple[nn.Module, torch.Tensor]:
    """The study's MLP (784-500-500-500-500-10, batch 100), or ResNet-20 on 32x32 images."""
    if name == "mlp":
        return build("mlp", widths=(500,) * 4, image_size=28), torch.randn(100, 1, 28, 28)
    return build("resnet20"), torch.randn(100, 3, 32, 32)


def block(model: nn.Module, x: torch.Tensor, y: torch.Tensor, optimizer: torch.optim.Optimizer) -> float:
    started = time.perf_counter()
    for _ in range(EVERY):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    keep_freed_memory()
    print(f"{torch.get_num_threads()} threads\n")
    print("| network | plain step ms | watched / plain | full record ms | with full records |\n|---|---|---|---|---|")
    for name in ("mlp", "resnet20"):
        rounds = args.rounds if name == "mlp" else max(3, args.rounds // 7)
        model, x = case(name)
        y = torch.randint(10, (len(x),))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        monitor = watch(model, x, every=EVERY, full_every=10**9)
        block(model, x, y, optimizer)
        plain, ratios = [], []
        for _ in range(rounds):
            plain.append(block(model, x, y, optimizer))
            monitor.attach(optimizer)
            ratios.append(block(model, x, y, optimizer) / plain[-1])
            monitor.detach()
        full = []
        for _ in range(3):
            started = time.perf_counter()
            monitor.record(full=True)
            full.append(time.perf_counter() - started)
        step, ratio, whole = statistics.median(plain) / EVERY, statistics.median(ratios), statistics.median(full)
        print(
            f"| {name} | {1e3 * step:.1f} | {ratio:.3f} | {1e3 * whole:.0f} | {ratio + whole / FULL_EVERY / step:.3f} |"
        )


if __name__ == "__main__":
    main()
