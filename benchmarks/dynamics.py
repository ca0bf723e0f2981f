"""What watching costs: ten training steps with one record, beside ten without; a full record by itself."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from benchmarks.protocol import Call, Case
from gracile.dynamics import watch
from gracile.models import build

# Steps from one record to the next; a full one (all singular values, the bounds) is made every thousand.
EVERY = 10


def network(name: str, small: bool) -> tuple[nn.Module, torch.Tensor]:
    """The study's MLP (784-500-500-500-500-10, batch 100), or ResNet-20 on 32x32 images; smaller ones to try."""
    batch = 4 if small else 100
    if name == "mlp":
        return build("mlp", widths=(20 if small else 500,) * 4, image_size=28), torch.randn(batch, 1, 28, 28)
    return build("resnet20"), torch.randn(batch, 3, 32, 32)


def cases(small: bool) -> Iterator[Case]:
    for name in ("mlp", "resnet20"):
        model, x = network(name, small)
        y = torch.randint(10, (len(x),))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        monitor = watch(model, x, every=EVERY, full_every=10**9)

        def plain(
            model: nn.Module = model,
            x: torch.Tensor = x,
            y: torch.Tensor = y,
            optimizer: torch.optim.Optimizer = optimizer,
        ) -> None:
            for _ in range(EVERY):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()

        def watched(plain: Call = plain, monitor=monitor, optimizer=optimizer) -> None:
            monitor.attach(optimizer)
            plain()
            monitor.detach()

        def full(monitor=monitor) -> None:
            monitor.record(full=True)

        calls = {"plain": plain, "watched": watched, "a full record": full}
        yield Case(f"{name}, {EVERY} steps, batch {len(x)}", "plain", calls, goals={"watched": 1.03})
