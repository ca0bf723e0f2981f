"""Methods of sparse training that a recipe's arms can name: one row each."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from torch import Tensor, nn

from gracile.core.errors import InputError, nearest, pick
from gracile.core.sparsifier import Sparsifier

# A method is a class whose first argument is the model and which is a `core.sparsifier.Sparsifier`.
METHODS = {
    "rvsm": "gracile.splitting:RVSM",
    "rgsm": "gracile.splitting:RGSM",
}


def build(name: str, model: nn.Module, example: Tensor, options: dict[str, Any]) -> Sparsifier:
    """Build a method on a model.

    Args:
        name: a row of `METHODS`.
        model: what it will make sparse.
        example: one input batch, given to methods that trace the network (``grouping = "coupled"``).
        options: the method's own arguments.

    Raises:
        InputError: no such method, or an option it does not have.
    """
    module, _, attribute = pick(METHODS, name, "method").partition(":")
    method = getattr(importlib.import_module(module), attribute)
    known = [key for key in inspect.signature(method).parameters if key not in ("model", "example")]
    for key in options:
        if key not in known:
            raise InputError(f"The method '{name}' has no option '{key}'.", nearest(key, known))
    if options.get("grouping") == "coupled":
        options = {**options, "example": example}
    return method(model, **options)


def steer(sparsifier: Sparsifier | None, example: Tensor, steps: int, target: dict[str, float]) -> Sparsifier:
    """Put a dial on a splitting.

    Args:
        sparsifier: a splitting, fresh from `build`.
        example: one input batch.
        steps: optimiser steps of the run.
        target: the dial's budget and ramp.

    Raises:
        InputError: the method has no lam to steer, or the budget makes no sense.
    """
    from gracile.splitting import RGSM, RVSM, Dial

    if not isinstance(sparsifier, (RVSM, RGSM)):
        raise InputError("A target steers lam, which this arm's method does not have.", "Use rvsm or rgsm.")
    return Dial(sparsifier, steps=steps, example=example, **target)
