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
    "admm": "gracile.pruning:ADMM",
    "gradual_magnitude": "gracile.pruning:GradualMagnitude",
    "l1_filters": "gracile.pruning:L1Filters",
    "network_slimming": "gracile.pruning:NetworkSlimming",
    "group_lasso_subgradient": "gracile.pruning:SubgradientGroupLasso",
    "scratch": "gracile.pruning:Scratch",
}
# What a recipe's run knows by itself and hands to the methods that ask for it; an optional example only for these options.
FROM_THE_RUN = ("example", "steps", "found")
WANTS_EXAMPLE = {("grouping", "coupled"), ("unit", "channel")}


def build(
    name: str,
    model: nn.Module,
    example: Tensor,
    options: dict[str, Any],
    *,
    steps: int,
    found: nn.Module | None = None,
) -> Sparsifier:
    """Build a method on a model.

    Args:
        name: a row of `METHODS`.
        model: what it will make sparse.
        example: one input batch, given to methods that trace the network.
        options: the method's own arguments.
        steps: optimiser steps of the run, given to methods that have phases.
        found: the sparse network another method left, given to those that take its shape.

    Raises:
        InputError: no such method, an option it does not have, or no found network where one is needed.
    """
    module, _, attribute = pick(METHODS, name, "method").partition(":")
    method = getattr(importlib.import_module(module), attribute)
    parameters = inspect.signature(method).parameters
    known = [key for key in parameters if key not in ("model", *FROM_THE_RUN)]
    for key in options:
        if key not in known:
            raise InputError(f"The method '{name}' has no option '{key}'.", nearest(key, known))
    given = {"example": example, "steps": steps, "found": found}
    wanted = {key for key in given if key in parameters and parameters[key].default is inspect.Parameter.empty}
    if any(options.get(key) == value for key, value in WANTS_EXAMPLE):
        wanted.add("example")
    if ("found" in wanted) != (found is not None):
        raise InputError(
            f"The method '{name}' {'takes the shape of' if found is None else 'does not look at'} an arm that was trained before.",
            "Name one in the arm's 'found'." if found is None else "Leave the arm's 'found' out.",
        )
    return method(model, **options, **{key: given[key] for key in wanted})


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
