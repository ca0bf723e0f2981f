"""The methods: one row each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from gracile.core.errors import pick, refuse_unknown
from gracile.workers.methods.admm import ADMM
from gracile.workers.methods.average import Average
from gracile.workers.methods.base import Method, State
from gracile.workers.methods.choco import Choco
from gracile.workers.methods.decentralised import DecentralisedSGD
from gracile.workers.methods.diloco import DiLoCo
from gracile.workers.methods.fedopt import FedOpt
from gracile.workers.methods.fedprox import FedProx
from gracile.workers.methods.scaffold import Scaffold
from gracile.workers.methods.tracking import GradientTracking
from gracile.workers.methods.two_star import TwoStar

METHODS: dict[str, Callable[..., Method]] = {
    "admm": ADMM,
    "average": Average,
    "choco": Choco,
    "diloco": DiLoCo,
    "dsgd": DecentralisedSGD,
    "fedopt": FedOpt,
    "fedprox": FedProx,
    "gradient-tracking": GradientTracking,
    "scaffold": Scaffold,
    "two-star": TwoStar,
}

__all__ = ["METHODS", "Method", "State", "method"]


def method(name: str, **options: Any) -> Method:
    """Make a method by name.

    Args:
        name: a row of `METHODS`.
        options: what it takes.

    Raises:
        InputError: no such method, or an option it does not have.
    """
    made = pick(METHODS, name, "method")
    refuse_unknown(options, inspect.signature(made).parameters, f"The method '{name}'")
    return made(**options)
