"""How long tracing, counting and shrinking take, and what zeros remove physically when their readers share them.

Run it from the checkout: ``PYTHONPATH=src:. python benchmarks/shrink.py``; medians of `REPEATS` runs, processor time on
one thread.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from tabulate import tabulate
from torch import nn

from gracile.channels import trace
from gracile.models import resnet18, resnet56, vgg16
from gracile.shrinking import plan, shrink
from tests.models.densenet import densenet121
from tests.models.well_known import randomised
from tests.models.zeros import zero_groups, zero_inputs_per_layer

REPEATS = 3
SHARE = 0.5


def median(function: Callable[[], object]) -> float:
    """Median processor seconds of a call, which a busy machine changes less than the time on the wall."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times)


def timings(name: str, make: Callable[[], nn.Module], side: int) -> dict[str, object]:
    """One network: seconds to trace, count and shrink with half of its groups zero."""
    model, x = randomised(make(), 0), torch.randn(2, 3, side, side)
    graph = trace(model, x)
    zero = torch.rand(graph.num_groups, generator=torch.Generator().manual_seed(0)) < SHARE
    zero_groups(model, graph, zero)
    return {
        "network": name,
        "groups": graph.num_groups,
        "trace s": median(lambda: trace(model, x)),
        "count ms": 1000 * median(graph.count),
        "forward ms": 1000 * median(lambda: _forward(model, x)),
        "shrink s": median(lambda: shrink(model, x)),
    }


def _forward(model: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        model(x)


def removals() -> list[dict[str, object]]:
    """ResNet-18: half the zeros coupled or layer by layer, and what selecting inputs adds to the latter."""
    x = torch.randn(2, 3, 32, 32)
    coupled, layered = randomised(resnet18(), 0), randomised(resnet18(), 0)
    graph = trace(coupled, x)
    zero_groups(coupled, graph, torch.rand(graph.num_groups, generator=torch.Generator().manual_seed(0)) < SHARE)
    zero_inputs_per_layer(layered, SHARE, 0)
    rows = []
    for name, model, gather in (
        ("coupled groups", coupled, False),
        ("layer by layer", layered, False),
        ("layer by layer, gather=True", layered, True),
    ):
        made = plan(model, x, gather=gather)
        rows.append(
            {"zeros": name, "multiply-adds M": made.after.macs / 1e6, "of dense": made.after.macs / made.before.macs}
        )
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, half of the groups zero\n")
    networks = (
        ("ResNet-18, 32x32", resnet18, 32),
        ("VGG-16, 32x32", vgg16, 32),
        ("ResNet-56, 32x32", resnet56, 32),
        ("DenseNet-121, 224x224", densenet121, 224),
    )
    print(tabulate(removals(), headers="keys", tablefmt="github", floatfmt=".3g"), end="\n\n", flush=True)
    for network in networks:
        print(tabulate([timings(*network)], headers="keys", tablefmt="github", floatfmt=".3g"), flush=True)
