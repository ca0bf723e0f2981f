"""What the study's pieces cost, in turns within one run, as medians of ratios.

    python benchmarks/study.py [--rounds 20]

Explicit backpropagation with its step in place (`gracile.models.sgd_step_`) against autograd with `torch.optim.SGD`, on the study's network
784-500-500-500-500-10, at batch 1 and 100; a training step of it with l1 against l2 batch-norm; a record of smoothness against a step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from gracile.core.memory import keep_freed_memory
from gracile.dynamics import SmoothnessMonitor
from gracile.models import mlp, sgd_step_

LR, LAM = 1e-4, 1e-3
STEPS = {1: 100, 100: 10}


def network(norm: str | None = None) -> nn.Sequential:
    return mlp(widths=(500,) * 4, activation="selu", bias=False, norm=norm, initialisation="lecun")


def autograd(model: nn.Sequential, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, weight_decay=LAM, foreach=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def formulas(model: nn.Sequential, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    weights = [one.weight.detach() for one in model if isinstance(one, nn.Linear)]
    targets, names = nn.functional.one_hot(y, 10).float(), ["selu"] * 4 + ["softmax"]
    return lambda: (
        sgd_step_(weights, x.flatten(1), targets, activations=names, lr=LR, lam=LAM, loss="cross_entropy") and None
    )


def seconds(step: Callable[[], object], times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        step()
    return (time.perf_counter() - started) / times


def compare(title: str, one: Callable[[], object], two: Callable[[], object], times: int, rounds: int) -> None:
    """Print the first's milliseconds and the second's share of them."""
    seconds(one, times), seconds(two, times)
    found = [(seconds(one, times), seconds(two, times)) for _ in range(rounds)]
    middle = statistics.median(first for first, _ in found)
    print(f"| {title} | {1e3 * middle:.2f} | {statistics.median(second / first for first, second in found):.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    keep_freed_memory()
    print(f"{torch.get_num_threads()} threads\n")
    print("| what | ms | the other / this |\n|---|---|---|")
    for batch, times in STEPS.items():
        x, y = torch.rand(batch, 1, 28, 28), torch.randint(10, (batch,))
        steps = autograd(network(), x, y), formulas(network(), x, y)
        compare(f"a step by autograd, then by formulas, batch {batch}", *steps, times, rounds)
    x, y = torch.rand(100, 1, 28, 28), torch.randint(10, (100,))
    steps = autograd(network("l2"), x, y), autograd(network("l1"), x, y)
    compare("a step with l2, then with l1 batch-norm, batch 100", *steps, 10, rounds)
    model = network()
    monitor = SmoothnessMonitor(model, x, y, lr=LR)
    compare("a step, then a record of smoothness, batch 100", autograd(model, x, y), monitor.record, 5, rounds)


if __name__ == "__main__":
    main()
