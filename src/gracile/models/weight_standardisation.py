"""Weight standardisation: normalising weights in place of activations."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Model = TypeVar("Model", bound=nn.Module)


class WeightStandardisation(nn.Module):
    """``(w - mean) / sqrt(fan_in (var + eps))`` over the inputs of each unit [@qiao2019; with fan-in as @brock2021, eq. 3].

    Without the fan-in a unit of k inputs would multiply their variance by k, and only a normalisation behind it could
    go on from there.
    """

    eps = 1e-8

    def forward(self, weight: Tensor) -> Tensor:
        rows = weight.flatten(1)
        fan_in = rows.shape[1]
        centred = rows - rows.mean(dim=1, keepdim=True)
        scale = torch.rsqrt(centred.square().mean(dim=1, keepdim=True) + self.eps) / math.sqrt(fan_in)
        return (centred * scale).view_as(weight)


def standardise_weights(model: Model) -> Model:
    """Standardise the weights of all convolutions and linear layers while they are trained.

    Args:
        model: changed in place; take the parametrisation out before shrinking or exporting, with `plain_weights`.
    """
    for module in list(model.modules()):
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            parametrize.register_parametrization(module, "weight", WeightStandardisation())
    return model


def plain_weights(model: Model) -> Model:
    """Put the standardised weights in place of what they were computed from: the same outputs, plain layers."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return model
