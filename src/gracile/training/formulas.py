"""A perceptron's plain gradient descent by explicit formulas, and the losses these know, taken before the last activation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gracile.models import ACTIVATIONS, sgd_step_
from gracile.models.backpropagation import Loss, Reduction

# Layers the explicit formulas know.
PLAIN = {nn.Flatten, nn.Linear, *(type(row.module()) for row in ACTIVATIONS.values())}


@dataclass(frozen=True)
class OutputLoss:
    """A loss of what stands before the last activation, without penalties; for ``gracile.fit(..., objective=...)``.

    Attributes:
        output: that activation.
        loss: as for `gracile.models.mlp_gradients`.
        reduction: as for `gracile.models.mlp_gradients`.
    """

    output: str
    loss: Loss
    reduction: Reduction

    def __call__(self, h: Tensor, labels: Tensor) -> Tensor:
        if self.loss == "cross_entropy":
            return nn.functional.cross_entropy(h, labels, reduction=self.reduction)
        targets = nn.functional.one_hot(labels, h.shape[1]).to(h)
        each = (ACTIVATIONS[self.output].module()(h) - targets).square().sum(dim=1) / 2
        return each.mean() if self.reduction == "mean" else each.sum()


def is_plain(model: nn.Sequential) -> bool:
    """Whether the explicit formulas know every layer of the perceptron at the end of `model`."""
    return all(type(module) in PLAIN for module in model[-1].children())


class ExplicitDescent:
    """Plain gradient descent by the explicit formulas: at batch 1 twice as fast as autograd and an optimiser (see docs/study.md).

    It takes its steps itself, at the rate of its optimiser, which finds no gradients left; for ``gracile.fit(...,
    learning_rule=...)``, with `optimizer` as its optimiser.

    Args:
        model: a perceptron for which `is_plain` holds, behind what scales its inputs; trained in place.
        loss: of its outputs.
        lr: learning rate.
        lam: l2 penalty on all parameters.
    """

    def __init__(self, model: nn.Sequential, loss: OutputLoss, lr: float, lam: float) -> None:
        self.before, self.loss, self.lam, self.lr = model[:-1], loss, lam, lr
        layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
        self.weights = [one.weight.detach() for one in layers]
        self.biases = [None if one.bias is None else one.bias.detach() for one in layers]
        self.activations = [*(name for one in model[-1].children() if (name := _activation(one))), loss.output]
        self.built: Optimizer | None = None

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Holds the rate of the step, and whatever hooks look at it."""
        self.built = torch.optim.SGD(parameters, lr=self.lr)
        return self.built

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        assert self.built is not None
        with torch.no_grad():
            x = self.before(x).flatten(1)
        targets = nn.functional.one_hot(y, self.weights[-1].shape[0]).to(x)
        loss, outputs = sgd_step_(
            self.weights, x, targets, biases=self.biases, activations=self.activations, lam=self.lam,
            lr=self.built.param_groups[0]["lr"], loss=self.loss.loss, reduction=self.loss.reduction,
        )  # fmt: skip
        return loss, (outputs.argmax(dim=1) == y).sum()


def _activation(module: nn.Module) -> str:
    return next((name for name, row in ACTIVATIONS.items() if type(row.module()) is type(module)), "")
