"""The optimisers a recipe can name."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn, optim

from gracile.core.errors import InputError, pick

# Against division by zero alone: torch's own 1e-8 would damp small gradients of a mean over a batch too.
TINY = 1e-12

OptimizerFactory = Callable[[Iterable[nn.Parameter]], optim.Optimizer]


def _sgd(lr: float, momentum: float, weight_decay: float, nesterov: bool) -> OptimizerFactory:
    return lambda parameters: optim.SGD(
        parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, foreach=True
    )


def _adam(lr: float, momentum: float, weight_decay: float, nesterov: bool) -> OptimizerFactory:
    kind = optim.NAdam if nesterov else optim.Adam
    return lambda parameters: kind(parameters, lr=lr, betas=(momentum, 0.999), weight_decay=weight_decay, foreach=True)


def _adamw(lr: float, momentum: float, weight_decay: float, nesterov: bool) -> OptimizerFactory:
    return lambda parameters: optim.AdamW(
        parameters, lr=lr, betas=(momentum, 0.999), weight_decay=weight_decay, foreach=True
    )


def _adagrad(lr: float, momentum: float, weight_decay: float, nesterov: bool) -> OptimizerFactory:
    return lambda parameters: optim.Adagrad(parameters, lr=lr, eps=TINY, weight_decay=weight_decay, foreach=True)


def _rmsprop(lr: float, momentum: float, weight_decay: float, nesterov: bool) -> OptimizerFactory:
    return lambda parameters: optim.RMSprop(
        parameters, lr=lr, alpha=momentum, eps=TINY, weight_decay=weight_decay, foreach=True
    )


OPTIMIZERS = {"sgd": _sgd, "adam": _adam, "adamw": _adamw, "adagrad": _adagrad, "rmsprop": _rmsprop}
# The momentum each is usually written with, where `sgd` is plain descent.
USUAL_MOMENTUM = {"sgd": 0.0, "adagrad": 0.0, "rmsprop": 0.9, "adam": 0.9, "adamw": 0.9}


def optimizer_factory(
    name: str, *, lr: float, momentum: float = 0.9, weight_decay: float = 0.0, nesterov: bool = False
) -> OptimizerFactory:
    """What builds an optimiser from parameters.

    Args:
        name: a row of `OPTIMIZERS`.
        lr: learning rate.
        momentum: also the first beta of the Adam family, and the weight of the past in rmsprop's mean square; not used
            by adagrad.
        weight_decay: l2 coefficient; decoupled in ``adamw``.
        nesterov: Nesterov momentum; NAdam for ``adam``.

    Raises:
        InputError: no such optimiser, or it does not take these settings.
    """
    factory = pick(OPTIMIZERS, name, "optimiser")(lr, momentum, weight_decay, nesterov)
    try:
        factory([nn.Parameter(torch.zeros(1))])
    except ValueError as error:
        raise InputError(
            f"The optimiser '{name}' does not take these settings: {error}.",
            "Give an lr and a weight decay of 0 or more and a momentum in [0, 1), above 0 where nesterov is set.",
        ) from error
    return factory
