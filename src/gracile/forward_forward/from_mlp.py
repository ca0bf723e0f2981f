"""A forward-forward network with the hidden layers of a perceptron that backpropagation would train."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from gracile.core.errors import InputError, refuse_unknown
from gracile.core.seeding import derive_seed
from gracile.data import Dataset
from gracile.forward_forward.network import FFNetwork

# Arguments of the network that the model and the data give.
GIVEN = {"in_features", "num_classes", "widths", "inputs", "label_value"}


def learner_like(model: nn.Module, train: Dataset, seed: int, options: Mapping[str, Any]) -> FFNetwork:
    """Build the network.

    Args:
        model: an mlp with relu, as `gracile.models` builds it, perhaps behind a child ``normalize``; the widths of its hidden layers
            are taken.
        train: the data it will learn from; features are standardised as for `model`, images stay in [0, 1], where black is 0.
        seed: of the weights.
        options: other arguments of `FFNetwork`, and ``label_strength``: the label's value as a multiple of the inputs' root mean square
            length (0.5 by default).

    Raises:
        InputError: no such option, or a model that is no mlp with relu.
    """
    options = dict(options)
    strength = options.pop("label_strength", 0.5)
    known = set(inspect.signature(FFNetwork).parameters) - GIVEN
    refuse_unknown(options, {*known, "label_strength"}, "The method 'forward-forward'")
    normalize = getattr(model, "normalize", None)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    leaves = [module for module in model.modules() if not list(module.children()) and module is not normalize]
    if len(linear) < 2 or not all(isinstance(leaf, nn.Linear | nn.ReLU | nn.Flatten) for leaf in leaves):
        raise InputError(
            "'forward-forward' takes the hidden layers of an mlp with relu, and the recipe's model is another.",
            "Set model.name to 'mlp', with one width at least.",
        )
    mean, std = train.statistics()
    squares = mean.square() + std.square() if train.is_image else (std > 0).float()
    length = math.sqrt(squares.sum().item() * math.prod(train.input_shape[1:]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initialisation"))
        return FFNetwork(
            linear[0].in_features, train.num_classes, [layer.out_features for layer in linear[:-1]],
            inputs=None if train.is_image else normalize, label_value=strength * (length or 1.0), **options,
        )  # fmt: skip
