"""How long tracing and shrinking take, beside torch-pruning's dependency graph; half of the groups are zero.

What zeros remove physically when their readers share them, by itself: ``python -m benchmarks.shrink``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from tabulate import tabulate
from torch import nn

from benchmarks.protocol import Case
from gracile.channels import trace
from gracile.models import resnet18, resnet56, vgg16
from gracile.shrinking import plan, shrink
from tests.models.densenet import densenet121
from tests.models.well_known import randomised
from tests.models.zeros import zero_groups, zero_inputs_per_layer

SHARE = 0.5
NETWORKS: tuple[tuple[str, Callable[[], nn.Module], int], ...] = (
    ("ResNet-18, 32x32", resnet18, 32),
    ("VGG-16, 32x32", vgg16, 32),
    ("ResNet-56, 32x32", resnet56, 32),
    ("DenseNet-121, 224x224", densenet121, 224),
)


def cases(small: bool) -> Iterator[Case]:
    torch.set_num_threads(1)
    import torch_pruning

    for name, make, side in NETWORKS[:1] if small else NETWORKS:
        model, x = randomised(make(), 0), torch.randn(2, 3, side, side)
        graph = trace(model, x)
        zero_groups(model, graph, torch.rand(graph.num_groups, generator=torch.Generator().manual_seed(0)) < SHARE)
        theirs = partial(torch_pruning.DependencyGraph().build_dependency, model, example_inputs=x)
        calls = {
            "torch-pruning, dependencies": theirs,
            "trace": partial(trace, model, x),
            "trace, cut and compare outputs": partial(shrink, model, x),
            "count": graph.count,
            "a forward pass": partial(_forward, model, x),
        }
        yield Case(name, "torch-pruning, dependencies", calls, goals={"trace": 1.0}, clock="cores", rounds=3)


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
    print(tabulate(removals(), headers="keys", tablefmt="github", floatfmt=".3g"))
