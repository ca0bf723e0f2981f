"""Adversarial weight perturbation: descend the loss at weights that are moved uphill first."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gracile.core.errors import InputError
from gracile.training.parallel import alone

Outer = Callable[[Callable[[Tensor], Tensor]], tuple[Tensor, Tensor]]


def perturbed(model: nn.Module, outer: Outer, gamma: float) -> tuple[Tensor, Tensor]:
    """The loss at ``w + gamma |w| g / |g|``, layer by layer, with g the gradient of the loss [@wu2020, eq. 9].

    Flat valleys of the loss generalise: it narrows the gap between robust accuracy in training and test. Biases and batch-norm,
    of one dimension, stay. The first pass leaves batch-norm's statistics as they were.

    Args:
        model: in training mode; its parameters are not moved, and the loss is differentiable with respect to them.
        outer: from a function of inputs to the loss and the logits.
        gamma: relative size of the perturbation.

    Raises:
        InputError: several ranks train together.
    """
    if alone(model) is not model:
        raise InputError("awp perturbs the weights of one process, and several train together here.", "Leave awp out.")
    weights = {name: one for name, one in model.named_parameters() if one.requires_grad and one.ndim > 1}
    buffers = [(one, one.clone()) for one in model.buffers()]
    loss, _ = outer(model)
    slopes = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)
    with torch.no_grad():
        for one, kept in buffers:
            one.copy_(kept)
        moves = [
            gamma * one.norm() / slope.norm().clamp_min(1e-12) * slope
            for one, slope in zip(weights.values(), slopes, strict=True)
        ]
    moved = {name: one + move for (name, one), move in zip(weights.items(), moves, strict=True)}
    return outer(lambda x: functional_call(model, moved, (x,)))
