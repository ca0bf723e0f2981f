"""What variable splitting costs: split against plain training steps of ResNet-18, alternating in one run.

    python benchmarks/splitting.py [--batch 32] [--rounds 7]

Prints the ratio of step times per method; the goal is at most 1.03.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from gracile import RGSM, RVSM
from gracile.core.memory import keep_freed_memory
from gracile.models import resnet18

METHODS: dict[str, Callable[[nn.Module, torch.Tensor], RVSM | RGSM | None]] = {
    "plain": lambda model, example: None,
    "rvsm l0": lambda model, example: RVSM(model, "l0", lam=1e-6, beta=8e-2),
    "rvsm l1": lambda model, example: RVSM(model, "l1", lam=1e-5, beta=1e-2),
    "rvsm transformed_l1": lambda model, example: RVSM(model, "transformed_l1", lam=1e-5, beta=1e-2),
    "rgsm input_channel": lambda model, example: RGSM(model, "group_lasso", lam=1e-3, beta=1.0, lam2=1e-5),
    "rgsm coupled": lambda model, example: RGSM(model, "group_lasso", lam=1e-3, beta=1.0, example=example),
}


def stepper(name: str, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """A function that takes one training step of a fresh network."""
    torch.manual_seed(0)
    model = resnet18().to(x.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, foreach=True)
    split = METHODS[name](model, x[:1])
    if split is not None:
        split.attach(optimizer)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        if x.is_cuda:
            torch.cuda.synchronize()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    keep_freed_memory()
    x = torch.rand(args.batch, 3, 32, 32, device=args.device)
    y = torch.randint(10, (args.batch,), device=args.device)
    steps = {name: stepper(name, x, y) for name in METHODS}
    times: dict[str, list[float]] = {name: [] for name in METHODS}
    for number in range(args.rounds + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if number:  # The first round warms up.
                times[name].append(time.perf_counter() - started)
    print(f"ResNet-18, batch {args.batch}, {args.device}, {torch.get_num_threads()} threads, {args.rounds} rounds")
    print("| step | median ms | ratio to plain (median of rounds) |\n|---|---|---|")
    for name, found in times.items():
        ratio = statistics.median(a / b for a, b in zip(found, times["plain"], strict=True))
        print(f"| {name} | {1000 * statistics.median(found):.0f} | {ratio:.3f} |")


if __name__ == "__main__":
    main()
