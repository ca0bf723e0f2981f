"""What the study's pieces cost, on its network 784-500-500-500-500-10.

Explicit backpropagation with its step in place (`gracile.models.sgd_step_`) against autograd with `torch.optim.SGD`, at batch 1 and 100; a
training step with l1 against l2 batch-norm; a record of smoothness against a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from benchmarks.protocol import Case, times
from gracile.dynamics import SmoothnessMonitor
from gracile.models import mlp, sgd_step_

LR, LAM = 1e-4, 1e-3
STEPS = {1: 100, 100: 10}


def network(norm: str | None = None, width: int = 500) -> nn.Sequential:
    return mlp(widths=(width,) * 4, activation="selu", bias=False, norm=norm, initialisation="lecun")


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


def cases(small: bool) -> Iterator[Case]:
    width = 20 if small else 500
    for batch, number in STEPS.items():
        x, y = torch.rand(batch, 1, 28, 28), torch.randint(10, (batch,))
        made = {"autograd": autograd(network(width=width), x, y), "formulas": formulas(network(width=width), x, y)}
        calls = {name: times(call, number) for name, call in made.items()}
        yield Case(f"a step, batch {batch}", "autograd", calls, units=dict.fromkeys(calls, number))
    x, y = torch.rand(100, 1, 28, 28), torch.randint(10, (100,))
    calls = {norm: times(autograd(network(norm, width), x, y), 10) for norm in ("l2", "l1")}
    yield Case("a step with batch-norm, batch 100", "l2", calls, units=dict.fromkeys(calls, 10))
    model = network(width=width)
    calls = {"a step": autograd(model, x, y), "a record of smoothness": SmoothnessMonitor(model, x, y, lr=LR).record}
    yield Case("watching, batch 100", "a step", calls)
