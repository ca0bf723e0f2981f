"""The models: one row each, name to factory; all take `num_classes`, `in_channels` and `image_size`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from gracile.core.errors import InputError, nearest, pick
from gracile.models.cnn import cnn
from gracile.models.enresnet import enresnet
from gracile.models.lenet import lenet
from gracile.models.mlp import mlp
from gracile.models.mobilenet import mobilenet
from gracile.models.resnet import resnet18, resnet20, resnet38, resnet56
from gracile.models.vgg import vgg16
from gracile.models.vit import vit

MODELS: dict[str, Callable[..., nn.Module]] = {
    "cnn": cnn,
    "enresnet": enresnet,
    "lenet": lenet,
    "mlp": mlp,
    "mobilenet": mobilenet,
    "resnet18": resnet18,
    "resnet20": resnet20,
    "resnet38": resnet38,
    "resnet56": resnet56,
    "vgg16": vgg16,
    "vit": vit,
}


def build(name: str, **settings: Any) -> nn.Module:
    """Make a model by name.

    Args:
        name: a row of `MODELS`.
        settings: what its factory takes.

    Raises:
        InputError: no such model, or a setting it does not take.
    """
    factory = pick(MODELS, name, "model")
    known = inspect.signature(factory).parameters
    for key in settings:
        if key not in known:
            raise InputError(f"The model '{name}' takes no setting '{key}'.", nearest(key, known))
    return factory(**settings)
