"""What each optimiser does to D, where a law is known: gradient flow conserves it, and nothing that is run conserves it exactly.

Gradient descent with step eta and weight decay lambda: ``D' = (1 - eta lambda)^2 D + eta^2 (G1 G1^T - G2^T G2)``,
exactly. Momentum mu adds a drift in proportion to eta, and its weight decay acts with ``eta / (1 - mu)``. Adam's drift
does not vanish with the step: no law.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn, optim
from torch.optim import Optimizer

from gracile.dynamics.junctions import Junction


@dataclass(frozen=True)
class Law:
    """An optimiser's law for one junction.

    Attributes:
        name: ``gradient descent``, ``weight decay only`` (momentum), or why there is none.
        known: whether there is one.
        second_order: whether the term in eta^2 is part of it.
        group: the parameters' group, whose lr and weight decay are read at every step.
    """

    name: str
    known: bool
    second_order: bool
    group: Mapping[str, Any]

    def rate(self) -> float:
        """eta, now."""
        return float(self.group["lr"])

    def decay(self) -> float:
        """The factor on D of one step."""
        shrink = self.rate() * float(self.group["weight_decay"]) / (1 - float(self.group["momentum"]))
        return (1 - shrink) ** 2


def law_of(optimizer: Optimizer, model: nn.Module, junction: Junction) -> Law:
    """The law that an optimiser's steps follow at a junction."""
    if type(optimizer) is not optim.SGD:
        return Law(f"none is known for {type(optimizer).__name__}", False, False, {})
    parameters = dict(model.named_parameters())
    wanted = {id(parameters[name]) for term in junction.terms for name in (term.weight, term.bias) if name is not None}
    groups = [group for group in optimizer.param_groups if wanted & {id(one) for one in group["params"]}]
    covered = {id(one) for group in groups for one in group["params"]}
    if not wanted <= covered:
        return Law("none: the optimiser does not train all of its weights", False, False, {})
    first = groups[0]
    if any(group[key] != first[key] for group in groups for key in ("lr", "weight_decay", "momentum")):
        return Law("none: its weights have different learning rates or weight decay", False, False, {})
    if first["momentum"]:
        return Law("weight decay only", True, False, first)
    return Law("gradient descent", True, True, first)
