"""Multi-layer perceptrons."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import nn

from gracile.core.errors import InputError, pick
from gracile.models.activations import ACTIVATIONS
from gracile.models.common import ImageSize, Initialisation, height_width, initialise
from gracile.models.l1_batch_norm import L1BatchNorm1d
from gracile.models.weight_standardisation import standardise_weights

NORMS: dict[str, Callable[[int], nn.Module]] = {"l1": L1BatchNorm1d, "l2": nn.BatchNorm1d}


def mlp(
    *,
    num_classes: int = 10,
    in_channels: int = 1,
    image_size: ImageSize = 28,
    in_features: int | None = None,
    widths: Sequence[int] = (300, 100),
    activation: str = "relu",
    output: str = "linear",
    bias: bool = True,
    norm: str | None = None,
    dropout: float = 0.0,
    initialisation: Initialisation = "he",
) -> nn.Sequential:
    """A multi-layer perceptron on the flattened input.

    Args:
        num_classes: outputs.
        in_channels: channels of the image; with its size they give the number of inputs.
        image_size: height and width, or one number for both.
        in_features: the number of inputs itself; then `in_channels` and `image_size` are not looked at.
        widths: units of each hidden layer; none makes a linear classifier.
        activation: after each hidden layer, a row of `ACTIVATIONS`.
        output: after the last layer, likewise; `gracile.fit` wants ``linear``, since cross-entropy has its own softmax.
        bias: whether the layers have biases.
        norm: of the hidden layers: ``l1`` or ``l2`` batch-norm before the activation, ``weight`` for weight
            standardisation, None.
        dropout: share of hidden units dropped in training, the rest scaled by ``1 / (1 - dropout)``; in [0, 1).
        initialisation: as for `initialise`.

    Returns:
        A module from (n, ...) to (n, num_classes), with the children ``linear1, norm1, act1, dropout1, ...`` as far as
        there are such.

    Raises:
        InputError: a width below 1, a share outside [0, 1), or an unknown activation or norm.
    """
    if in_features is None:
        in_features = in_channels * math.prod(height_width(image_size, least=1, model="mlp"))
    if min((in_features, *widths)) < 1:
        units = [in_features, *widths]
        raise InputError(f"An mlp cannot have layers of {units} units.", "Give every layer at least one.")
    if not 0 <= dropout < 1:
        raise InputError(f"A share of {dropout} cannot be dropped.", "Give dropout from 0 up to below 1.")
    act, last = pick(ACTIVATIONS, activation, "activation").module, pick(ACTIVATIONS, output, "activation").module
    normalise = None if norm is None or norm == "weight" else pick({**NORMS, "weight": NORMS["l2"]}, norm, "norm")
    network = nn.Sequential()
    network.add_module("flatten", nn.Flatten())
    units = in_features
    for number, width in enumerate(widths, 1):
        network.add_module(f"linear{number}", nn.Linear(units, width, bias=bias))
        if normalise is not None:
            network.add_module(f"norm{number}", normalise(width))
        network.add_module(f"act{number}", act())
        if dropout:
            network.add_module(f"dropout{number}", nn.Dropout(dropout))
        units = width
    network.add_module(f"linear{len(widths) + 1}", nn.Linear(units, num_classes, bias=bias))
    if output != "linear":
        network.add_module(f"act{len(widths) + 1}", last())
    initialise(network, initialisation=initialisation)
    if norm == "weight":
        for number in range(1, len(widths) + 1):
            standardise_weights(network.get_submodule(f"linear{number}"))
    return network
