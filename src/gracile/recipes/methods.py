"""Methods that a recipe's arms can name, of sparse training and of learning without backpropagation: one row each."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError, nearest, pick
from gracile.core.learning_rule import LearningRule
from gracile.core.seeding import derive_seed
from gracile.core.sparsifier import Sparsifier
from gracile.data import Dataset
from gracile.deploy import FileSize, Latency
from gracile.forward_forward import FFNetwork
from gracile.pruning import (
    ADMM,
    GradualMagnitude,
    L1Filters,
    NetworkSlimming,
    RandomChannels,
    Scratch,
    SubgradientGroupLasso,
)
from gracile.recipes.own import is_own, own
from gracile.splitting import RGSM, RVSM, Dial
from gracile.splitting.measured import Measure

# A method is a class whose first argument is the model and which is a `core.sparsifier.Sparsifier`.
METHODS: dict[str, Callable[..., Sparsifier]] = {
    "rvsm": RVSM,
    "rgsm": RGSM,
    "admm": ADMM,
    "gradual_magnitude": GradualMagnitude,
    "l1_filters": L1Filters,
    "network_slimming": NetworkSlimming,
    "group_lasso_subgradient": SubgradientGroupLasso,
    "random_channels": RandomChannels,
    "scratch": Scratch,
}
# What a recipe's run knows by itself and hands to the methods that ask for it; an optional example only for these options.
FROM_THE_RUN = ("example", "steps", "found")
WANTS_EXAMPLE = {("grouping", "coupled"), ("unit", "channel")}

# A rule is a network of its own, with the layers of the recipe's mlp, that fills its gradients itself: a class that is built like
# `FFNetwork` and has its `gradients`.
RULES: dict[str, type[FFNetwork]] = {
    "forward-forward": FFNetwork,
}


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
        name: a row of `METHODS`, or ``FILE.py:NAME``, a class of the user's own.
        model: what it will make sparse.
        example: one input batch, given to methods that trace the network.
        options: the method's own arguments; a penalty among them may be of the user's own, too.
        steps: optimiser steps of the run, given to methods that have phases.
        found: the sparse network another method left, given to those that take its shape.

    Raises:
        InputError: no such method, an option it does not have, or no found network where one is needed.
    """
    if not is_own(name) and name not in METHODS:
        pick(dict.fromkeys((*METHODS, *RULES)), name, "method")
    method = own(name, "method") if is_own(name) else METHODS[name]
    options = _with_own_penalty(options)
    _check_options(name, method, options, hidden=("model", *FROM_THE_RUN))
    parameters = inspect.signature(method).parameters
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


def learn_by_rule(
    name: str, model: nn.Module, train: Dataset, seed: int, options: dict[str, Any]
) -> tuple[nn.Module, LearningRule]:
    """Build a network that learns by a rule of its own, with the layers of another.

    Args:
        name: a row of `RULES`.
        model: an mlp with relu, as `gracile.models` builds it behind its normalisation; the widths of its hidden layers are taken.
        train: the data it will learn from; features are standardised as for `model`, images stay in [0, 1], where black is 0.
        seed: of the weights.
        options: the network's own arguments, and ``label_strength``: the label's value as a multiple of the inputs' root mean square
            length (0.5 by default).

    Returns:
        The network and what fills its gradients.

    Raises:
        InputError: no such rule or option, or a model that is no mlp with relu.
    """
    kind = pick(RULES, name, "method")
    options = dict(options)
    strength = options.pop("label_strength", 0.5)
    _check_options(name, kind, options, hidden=("in_features", "num_classes", "widths", "inputs", "label_value"))
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    leaves = [module for module in model.modules() if not list(module.children())]
    if len(linear) < 2 or not all(
        isinstance(leaf, nn.Linear | nn.ReLU | nn.Flatten) or leaf is getattr(model, "normalize", None)
        for leaf in leaves
    ):
        raise InputError(
            f"'{name}' takes the hidden layers of an mlp with relu, and the recipe's model is another.",
            "Set model.name to 'mlp', with one width at least.",
        )
    mean, std = train.statistics()
    squares = mean.square() + std.square() if train.is_image else (std > 0).float()
    length = math.sqrt(squares.sum().item() * math.prod(train.input_shape[1:]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initialisation"))
        network = kind(
            linear[0].in_features,
            train.num_classes,
            [layer.out_features for layer in linear[:-1]],
            inputs=None if train.is_image else getattr(model, "normalize", None),
            label_value=strength * (length or 1.0),
            **options,
        )
    return network, network.gradients


def _with_own_penalty(options: dict[str, Any]) -> dict[str, Any]:
    """The options with the penalty built where it is named as ``FILE.py:NAME``, alone or in a table with its settings."""
    asked = options.get("penalty")
    settings = dict(asked) if isinstance(asked, Mapping) else {"name": asked}
    name = settings.pop("name", None)
    return {**options, "penalty": own(name, "penalty")(**settings)} if is_own(name) else options


def _check_options(name: str, method: Any, options: dict[str, Any], hidden: tuple[str, ...]) -> None:
    known = [key for key in inspect.signature(method).parameters if key not in hidden]
    for key in options:
        if key not in known:
            raise InputError(f"The method '{name}' has no option '{key}'.", nearest(key, known))


def steer(sparsifier: Sparsifier | None, example: Tensor, steps: int, target: dict[str, Any]) -> Sparsifier:
    """Put a dial on a splitting.

    Args:
        sparsifier: a splitting, fresh from `build`.
        example: one input batch.
        steps: optimiser steps of the run.
        target: the dial's budget and ramp; of a latency ``runtime``, ``threads`` and ``batch_size``, of a file size ``form``.

    Raises:
        InputError: the method has no lam to steer, or the budget makes no sense.
    """
    if not isinstance(sparsifier, (RVSM, RGSM)):
        raise InputError("A target steers lam, which this arm's method does not have.", "Use rvsm or rgsm.")
    target = dict(target)
    measured: dict[str, tuple[Callable[..., Measure], tuple[str, ...]]] = {
        "latency": (Latency, ("runtime", "threads", "batch_size")),
        "file_size": (FileSize, ("form",)),
    }
    measures = []
    for budget, (kind, options) in measured.items():
        given = {name: target.pop(name) for name in options if name in target}
        if budget in target:
            measures.append(kind(example, **given))
        elif given:
            raise InputError(
                f"{next(iter(given))} belongs to a target of {budget}.", f"Give {budget}, or leave it out."
            )
    return Dial(sparsifier, steps=steps, example=example, measure=measures, **target)
