"""What the models share: image sizes, the classifier behind pooled features, and initialisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError, pick
from gracile.models.l1_batch_norm import L1BatchNorm1d, L1BatchNorm2d

ImageSize = int | tuple[int, int]
Initialisation = Literal["he", "lecun", "glorot"]


DRAWS: dict[str, Callable[[Tensor, torch.Generator | None], Tensor]] = {
    "he": lambda weight, generator: nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator),
    "lecun": lambda weight, generator: nn.init.kaiming_normal_(weight, nonlinearity="linear", generator=generator),
    "glorot": lambda weight, generator: nn.init.xavier_normal_(weight, generator=generator),
}


def height_width(image_size: ImageSize, *, least: int, model: str) -> tuple[int, int]:
    """An image size as (height, width).

    Args:
        image_size: pixels; one number for a square.
        least: the smallest side the model can take.
        model: its name, for the message.

    Raises:
        InputError: a side is smaller than `least`.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if min(height, width) < least:
        raise InputError(
            f"Images of {height}x{width} pixels are too small for {model}, which needs sides of at least {least}.",
            "Enlarge or pad the images, or choose another model.",
        )
    return height, width


def pooled_classifier(features: Sequence[nn.Module], channels: int, num_classes: int) -> nn.Sequential:
    """Features, their mean over the image, and one linear layer; freshly initialised.

    Args:
        features: modules, one after the other, to (n, channels, height, width).
        channels: that the last of them makes.
        num_classes: outputs.
    """
    network = nn.Sequential()
    network.add_module("features", nn.Sequential(*features))
    network.add_module("pool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("classifier", nn.Linear(channels, num_classes))
    initialise(network)
    return network


def initialise(
    model: nn.Module, generator: torch.Generator | None = None, *, initialisation: Initialisation = "he"
) -> nn.Module:
    """Draw all convolution and linear weights anew and return the model.

    Weights are normal, biases zero; normalisation layers are reset.

    Args:
        model: changed in place.
        generator: where the numbers come from; torch's global one by default, as for any module.
        initialisation: variance ``2 / fan-in`` (``he``: @he2015, eq. 10), ``1 / fan-in`` (``lecun``, which SELU
            asks for: @klambauer2017) or ``2 / (fan-in + fan-out)`` (``glorot``: @glorot2010, eq. 16).

    Raises:
        InputError: no such initialisation.
    """
    draw = pick(DRAWS, initialisation, "initialisation")
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            draw(module.weight, generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | L1BatchNorm1d | L1BatchNorm2d):
            module.reset_parameters()
    return model
