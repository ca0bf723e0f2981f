"""What adversarial training and EnResNet cost, against plain training steps, alternating in one run.

    python benchmarks/adversarial.py [--batch 64] [--rounds 3] [--width 16] [--size 32]

Prints per method the time of a step over that of a plain step of the same ResNet-20; the goal for PGD-10 is at most 11.5. Then the
time of a training step and of a prediction of En2 and En5 over 2 and 5 times that of a single member; the goal is at most 1.15.
What the noise costs stands beside it: the same over a single network without any.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from gracile.core.memory import keep_freed_memory
from gracile.models import enresnet, resnet20
from gracile.training import CrossEntropy, Objective, adversary

OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "plain": CrossEntropy,
    "fgsm": lambda: adversary("fgsm"),
    "free, 4 replays": lambda: adversary("free", replays=4),
    "pgd-10": lambda: adversary("pgd", steps=10),
    "pgd-10 in training mode": lambda: adversary("pgd", steps=10, mode="found"),
    "trades-10": lambda: adversary("trades", steps=10),
}


def timed(work: Callable[[], None], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def stepper(network: nn.Module, objective: Objective, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """A function that trains on one batch."""
    network = network.to(x.device, memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        for _ in range(objective.replays):
            loss, _ = objective.loss(network, x, y, 0.0, 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            objective.follow()

    return step


def predictor(network: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """A function that predicts one batch."""
    network = network.to(x.device, memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]

    def predict() -> None:
        with torch.no_grad():
            network(x)

    return predict


def alternate(works: dict[str, Callable[[], None]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            taken = timed(work, device)
            if number:  # The first round warms up.
                times[name].append(taken)
    return times


def show(title: str, times: dict[str, list[float]], bases: list[str], units: dict[str, int]) -> None:
    heads = "".join(f" over {base} |" for base in bases)
    print(f"\n| {title} | median ms |{heads}\n|---|---|{'---|' * len(bases)}")
    for name, found in times.items():
        ratios = [
            statistics.median(a / b for a, b in zip(found, times[base], strict=True)) / units.get(name, 1)
            for base in bases
        ]
        cells = "".join(f" {ratio:.2f} |" for ratio in ratios)
        print(f"| {name} | {1000 * statistics.median(found):.0f} |{cells}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    device, shape = torch.device(args.device), {"width": args.width, "image_size": args.size}
    x = torch.rand(args.batch, 3, args.size, args.size, device=device)
    y = torch.randint(10, (args.batch,), device=device)
    print(
        f"ResNet-20, batch {args.batch}, width {args.width}, {args.size} pixels, {device}, {torch.get_num_threads()} threads"
    )
    steps = {name: stepper(resnet20(preactivation=True, **shape), make(), x, y) for name, make in OBJECTIVES.items()}
    show("a batch of training", alternate(steps, args.rounds, device), ["plain"], {})
    networks = {"without noise": 0, "one member": 1, "en2": 2, "en5": 5}

    def network(n: int, **settings: object) -> nn.Module:
        return enresnet(n, **shape, **settings) if n else resnet20(preactivation=True, **shape)  # type: ignore[arg-type]

    for title, work in (
        ("a training step", lambda one: stepper(one, CrossEntropy(), x, y)),
        ("a prediction", lambda one: predictor(one, x)),
    ):
        works = {name: work(network(n)) for name, n in networks.items()}
        works |= {f"{name}, noise off": work(network(n, noise=0.0)) for name, n in networks.items() if n > 1}
        works |= {f"{name}, at once": work(network(n, at_once=True)) for name, n in networks.items() if n > 1}
        units = {name: max(1, networks[name.partition(",")[0]]) for name in works}
        bases = ["one member", "without noise"]
        show(f"{title}, a member", alternate(works, args.rounds, device), bases, units)


if __name__ == "__main__":
    main()
