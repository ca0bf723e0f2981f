"""Multi-layer perceptrons."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from gracile.core.errors import InputError, pick
from gracile.models.common import ImageSize, height_width, initialise

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "linear": nn.Identity,
}


def mlp(
    *,
    num_classes: int = 10,
    in_channels: int = 1,
    image_size: ImageSize = 28,
    in_features: int | None = None,
    widths: Sequence[int] = (300, 100),
    activation: str = "relu",
) -> nn.Sequential:
    """A multi-layer perceptron on the flattened input.

    Args:
        num_classes: outputs.
        in_channels, image_size: the image's shape, from which the number of inputs follows.
        in_features: the number of inputs itself; then `in_channels` and `image_size` are not looked at.
        widths: units of each hidden layer; none makes a linear classifier.
        activation: a row of `ACTIVATIONS`.

    Returns:
        A module from (n, ...) to (n, num_classes).

    Raises:
        InputError: a width below 1, or an unknown activation.
    """
    if in_features is None:
        in_features = in_channels * math.prod(height_width(image_size, least=1, model="mlp"))
    if min((in_features, *widths)) < 1:
        units = [in_features, *widths]
        raise InputError(f"An mlp cannot have layers of {units} units.", "Give every layer at least one.")
    act = pick(ACTIVATIONS, activation, "activation")
    network = nn.Sequential()
    network.add_module("flatten", nn.Flatten())
    units = in_features
    for number, width in enumerate(widths, 1):
        network.add_module(f"linear{number}", nn.Linear(units, width))
        network.add_module(f"act{number}", act())
        units = width
    network.add_module(f"linear{len(widths) + 1}", nn.Linear(units, num_classes))
    initialise(network)
    return network
