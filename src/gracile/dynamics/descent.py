"""How far optimisers with finite steps move what gradient flow conserves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gracile.dynamics.flow import Loss
from gracile.dynamics.junctions import find, parameters_of

Factory = Callable[[Iterable[Tensor], float], Optimizer]


def drift(model: nn.Module, example: Tensor) -> Callable[[nn.Module], float]:
    """A function that tells how much the entries of D that flow must conserve differ from those of `model` now (largest entry)."""
    junctions = [one for one in find(model, example) if one.invariance != "none"]

    def values(net: nn.Module) -> list[Tensor]:
        parameters = parameters_of(net)
        return [
            one.difference(parameters) if one.invariance == "full" else one.diagonal(parameters) for one in junctions
        ]

    start = values(model)
    return lambda net: max((now - then).abs().max().item() for now, then in zip(values(net), start, strict=True))


def descend(
    model: nn.Module, loss: Loss, example: Tensor, optimizer: Factory, *, time: float, lrs: Sequence[float]
) -> list[tuple[float, float]]:
    """The drift of D after descending for the same time with several step sizes.

    Args:
        model: copied, not changed.
        loss: from the model to a scalar.
        example: inputs of the model.
        optimizer: from parameters and step size.
        time: step size times number of steps.
        lrs: step sizes.

    Returns:
        (step size, drift), the drift as of `drift`.
    """
    found = []
    for lr in lrs:
        net = copy.deepcopy(model)
        measure = drift(net, example)
        built = optimizer(net.parameters(), lr)
        for _ in range(round(time / lr)):
            built.zero_grad()
            loss(net).backward()
            built.step()
        found.append((lr, measure(net)))
    return found


OPTIMIZERS: dict[str, Factory] = {
    "gradient descent": lambda parameters, rate: torch.optim.SGD(parameters, lr=rate),
    # The same effective step: momentum multiplies it by 1 / (1 - 0.9).
    "momentum 0.9": lambda parameters, rate: torch.optim.SGD(parameters, lr=rate / 10, momentum=0.9),
    "Adam": lambda parameters, rate: torch.optim.Adam(parameters, lr=rate),
}
