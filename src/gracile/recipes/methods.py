"""Methods that a recipe's arms can name, of sparse training and of learning without backpropagation: one row each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from gracile.core.errors import InputError, pick, refuse_unknown
from gracile.core.learning_rule import LearningRule
from gracile.core.sparsifier import Sparsifier
from gracile.data import Dataset
from gracile.deploy import FileSize, Latency
from gracile.forward_forward import FFNetwork, learner_like
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
from gracile.recipes.schema import typed_options
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

# A learning rule is a network of its own, with the layers of the recipe's mlp, that fills its gradients itself: a function like
# `gracile.forward_forward.learner_like`, from such a model, its data, a seed and its options to a network with `gradients`.
LEARNING_RULES: dict[str, Callable[..., FFNetwork]] = {"forward-forward": learner_like}


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
        pick(dict.fromkeys((*METHODS, *LEARNING_RULES)), name, "method")
    method = own(name, "method") if is_own(name) else METHODS[name]
    options = _with_own_penalty(options)
    parameters = inspect.signature(method).parameters
    refuse_unknown(options, set(parameters) - {"model", *FROM_THE_RUN}, f"The method '{name}'")
    given = {"example": example, "steps": steps, "found": found}
    if not is_own(name):
        options = typed_options(METHODS, name, options)
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
        name: a row of `LEARNING_RULES`.
        model: an mlp with relu, as `gracile.models` builds it behind its normalisation.
        train: the data it will learn from.
        seed: of the weights.
        options: the rule's own arguments.

    Returns:
        The network and what fills its gradients.

    Raises:
        InputError: no such rule or option, or a model that is no mlp with relu.
    """
    network = pick(LEARNING_RULES, name, "method")(model, train, seed, options)
    return network, network.gradients


def _with_own_penalty(options: dict[str, Any]) -> dict[str, Any]:
    """The options with the penalty built where it is named as ``FILE.py:NAME``, alone or in a table with its settings."""
    asked = options.get("penalty")
    settings = dict(asked) if isinstance(asked, Mapping) else {"name": asked}
    name = settings.pop("name", None)
    return {**options, "penalty": own(name, "penalty")(**settings)} if is_own(name) else options


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
