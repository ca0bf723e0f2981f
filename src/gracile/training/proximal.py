"""Proximal gradient descent: a penalty without a splitting, applied after each step of an optimiser."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gracile.penalties import Penalty
from gracile.training.optimizers import OptimizerFactory


def proximal(factory: OptimizerFactory, weights: Sequence[Tensor], penalty: Penalty, lam: float) -> OptimizerFactory:
    """An optimiser after each of whose steps every weight goes through the proximal map of ``lr lam penalty``.

    With plain gradient descent this is proximal gradient descent (ISTA for l1) [@beck2009]: exact zeros, and no second copy of the
    weights as a splitting has it. For `gracile.fit(..., optimizer=...)`.

    Args:
        factory: builds the optimiser from parameters; the lr of its first group is the step of the map.
        weights: what the penalty is of, each for itself.
        penalty: one on single weights.
        lam: its weight, at least 0; with 0 the optimiser is as `factory` builds it.
    """

    @torch.no_grad()
    def shrink(optimizer: Optimizer, *_: object) -> None:
        for weight in weights:
            weight.copy_(penalty.prox(weight, optimizer.param_groups[0]["lr"] * lam))

    def build(parameters: Iterable[nn.Parameter]) -> Optimizer:
        built = factory(parameters)
        built.register_step_post_hook(shrink)
        return built

    return build if lam else factory
