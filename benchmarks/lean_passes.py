"""A step of training once the choice is final: through the whole network with its zeros, and through what stays of it.

The weights are drawn, not trained, and which channels go is drawn, too: time does not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.multiples import thinned
from benchmarks.protocol import Case
from gracile.models import build
from gracile.shrinking import LeanPasses

# A network, its options, and whether its steps are in bf16, as its arms in the comparisons are.
NETWORKS: list[tuple[str, dict[str, Any], bool]] = [
    ("vgg16", {"width": 0.5}, True),
    ("resnet20", {}, True),
    ("mobilenet", {}, False),
    ("vit", {"image_size": 32, "width": 64, "depth": 4, "heads": 8}, False),
]
BUDGETS = (0.5, 0.3, 0.15)


def steps(model: nn.Module, through: nn.Module, x: torch.Tensor, y: torch.Tensor, *, bf16: bool) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = nn.functional.cross_entropy(through(x), y)
        loss.backward()
        optimizer.step()

    return step


def cases(small: bool) -> Iterator[Case]:
    batch = 4 if small else 128
    for name, options, bf16 in NETWORKS[: 1 if small else None]:
        torch.manual_seed(0)
        x, y = torch.rand(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last), torch.arange(batch) % 10
        calls: dict[str, Callable[[], object]] = {}
        for macs in BUDGETS[: 1 if small else None]:
            model = thinned(build(name, **options), x[:2], macs).train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            if not calls:
                calls["whole"] = steps(model, model, x, y, bf16=bf16)
            calls[f"{100 * macs:.0f} % left"] = steps(model, LeanPasses(model, x[:2]), x, y, bf16=bf16)
        yield Case(f"{name}, batch {batch}, {'bf16' if bf16 else 'float32'}", "whole", calls)
