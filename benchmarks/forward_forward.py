"""What forward-forward costs beside backpropagation, as ratios within one run.

    python benchmarks/forward_forward.py [step | memory | law ...]

step     a training step of 4 x 500, batch 128, by kind of negatives, over one of backpropagation with the same layers and optimiser
memory   the most that is held for activations during a step, against depth
law      the laws of sparsity on a batch of 128 (+ 128), n = 2000, beside the training step that they describe

Whole trainings, with their times, are recipes: gracile reproduce ff-mnist.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gracile.core.memory import keep_freed_memory, peak_bytes
from gracile.forward_forward import FFNetwork, theorem1, theorem2, write_labels
from gracile.forward_forward.network import NEGATIVES
from gracile.forward_forward.normalization import NORMALIZATIONS
from gracile.models import build

ROUNDS, STEPS = 15, 20


def batch(samples: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.rand(samples, 1, 28, 28, generator=random), torch.randint(10, (samples,), generator=random)


def timed(contenders: dict[str, Callable[[], object]], steps: int = STEPS) -> dict[str, float]:
    """Median seconds of a call, the contenders alternating."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        call()
    for _ in range(ROUNDS):
        for name, call in contenders.items():
            started = time.perf_counter()
            for _ in range(steps):
                call()
            seconds[name].append((time.perf_counter() - started) / steps)
    return {name: statistics.median(found) for name, found in seconds.items()}


def backpropagation(widths: list[int], x: Tensor, y: Tensor) -> tuple[nn.Module, Callable[[], object]]:
    network = build("mlp", num_classes=10, widths=widths)

    def step() -> None:
        nn.functional.cross_entropy(network(x), y).backward()

    return network, step


def stepping(network: nn.Module, gradients: Callable[[], object]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, foreach=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        gradients()
        optimizer.step()

    return step


def step() -> None:
    x, y = batch(128)
    widths = [500] * 4
    contenders = {"backpropagation": stepping(*backpropagation(widths, x, y))}
    for negatives in NEGATIVES:
        network = FFNetwork(784, 10, widths, negatives=negatives)
        contenders[f"forward-forward, negatives {negatives}"] = stepping(
            network, lambda net=network: net.gradients(x, y)
        )
    found = timed(contenders)
    for name, seconds in found.items():
        print(f"{name:<36} {1000 * seconds:7.2f} ms a step  x {seconds / found['backpropagation']:.2f}")


def memory() -> None:
    x, y = batch(1024)
    print(
        "depth   forward-forward   backpropagation   (MB held at once for a step on 1024 samples, gradients left out; 500 wide)"
    )
    for depth in (1, 2, 4, 8, 16):
        widths = [500] * depth
        ours = FFNetwork(784, 10, widths)
        theirs, gradients = backpropagation(widths, x, y)
        peaks = []
        for network, call in ((ours, lambda net=ours: net.gradients(x, y)), (theirs, gradients)):
            call()
            network.zero_grad(set_to_none=True)
            held = 4 * sum(parameter.numel() for parameter in network.parameters())
            peaks.append(peak_bytes(call) - held)
        print(f"{depth:>5} {peaks[0] / 1e6:>17.1f} {peaks[1] / 1e6:>17.1f}")


def law() -> None:
    x, y = batch(128)
    unit = NORMALIZATIONS["length"]
    weights = torch.randn(2000, 784) * (2 / 2000) ** 0.5
    positive, negative = (unit(write_labels(x.flatten(1), labels, 10)) for labels in (y, (y + 1) % 10))
    pairs = [(one, torch.relu(one @ weights.T)) for one in (positive, negative)]

    def training() -> None:
        h = [torch.relu(one @ weights.T) for one in (positive, negative)]
        weights.sub_(h[1].T @ negative - h[0].T @ positive, alpha=1e-12)

    found = timed({
        "training step, 128 + 128": training,
        "theorem 1, 128": lambda: theorem1(*pairs[0], pairs[0]),
        "theorem 2, of 128 positives": lambda: theorem2(*pairs[0], *pairs),
        "theorem 2, of all 256": lambda: [theorem2(*pair, *pairs) for pair in pairs],
    })  # fmt: skip
    for name, seconds in found.items():
        print(f"{name:<28} {1000 * seconds:7.2f} ms")


if __name__ == "__main__":
    keep_freed_memory()
    for name in sys.argv[1:] or ["step", "memory", "law"]:
        globals()[name]()
