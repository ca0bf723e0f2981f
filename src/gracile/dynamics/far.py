"""Gradient flow followed to losses no floating-point number can hold, where the low-rank phenomenon shows.

In physical time rank 1 arrives logarithmically slowly. The path is the same when it is walked by arc length, and the
loss, kept as a logarithm, never underflows: ``d theta / ds = -grad log R / |grad log R|``. Every conserved quantity
stays conserved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.integrate import LSODA
from torch import Tensor, nn

from gracile.core.errors import InputError, NonFiniteError
from gracile.dynamics.flow import Loss, _Field


def log_logistic(margins: Tensor) -> Tensor:
    """The logarithm of the mean logistic loss, ``log mean log(1 + exp(-m))``, without under- or overflow.

    Args:
        margins: (n,) values of y f(x).
    """
    # log log(1 + exp(-m)): for large m it is -m - exp(-m) / 2 up to exp(-2 m), far below rounding.
    far = margins > 30
    near = torch.where(far, torch.zeros_like(margins), margins)
    each = torch.where(far, -margins, F.softplus(-near).log())
    return torch.logsumexp(each, dim=0) - math.log(len(margins))


@dataclass
class FarFlow:
    """Where the normalised flow went.

    Attributes:
        log_loss: at the end.
        length: of the arc.
        steps: accepted.
        evaluations: gradients taken.
        observed: ``(log loss, what observe returned)``.
    """

    log_loss: float = math.nan
    length: float = 0.0
    steps: int = 0
    evaluations: int = 0
    observed: list[tuple[float, Any]] = field(default_factory=list)


class _Normalised(_Field):
    def __call__(self, _time: float, y: np.ndarray) -> np.ndarray:
        gradient = super().__call__(_time, y)
        norm = float(np.linalg.norm(gradient))
        if not norm > 0:
            raise NonFiniteError("The gradient of the log loss is zero.", "Start from weights that are not all zero.")
        return gradient / norm


class _Fixed:
    """Classical Runge-Kutta steps of one length, with the interface of scipy's solvers."""

    status = "running"

    def __init__(self, field_: _Normalised, step: float) -> None:
        self.field, self.h, self.t, self.y = field_, step, 0.0, field_.here()

    def step(self) -> None:
        f, y, h = self.field, self.y, self.h
        k1 = f(0, y)
        k2 = f(0, y + h / 2 * k1)
        k3 = f(0, y + h / 2 * k2)
        k4 = f(0, y + h * k3)
        self.y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        self.t += h


def normalised_flow(
    model: nn.Module,
    log_loss: Loss,
    *,
    until: float = -1000.0,
    tolerance: float = 1e-9,
    at: Sequence[float] = (),
    observe: Callable[[float], Any] | None = None,
    step: float | None = None,
    steps: int = 20_000,
) -> FarFlow:
    """Move a model along its gradient flow, by arc length, until the logarithm of the loss is below `until`.

    The equation becomes stiff where several examples share the least margin, hence an implicit solver of variable order
    (LSODA).

    Args:
        model: in float64; moved in place. Small: an implicit step solves a system in all its weights.
        log_loss: from the model to the logarithm of its loss, such as `log_logistic` of its margins.
        until: natural logarithm of the loss to reach.
        tolerance: relative and absolute tolerance of a step.
        at: logarithms of the loss at which `observe` is called, once passed; it is called at the start and the end too.
        observe: called with the logarithm of the loss, the model standing there.
        step: with ReLUs: fixed Runge-Kutta steps of this arc length (order 4), as an adaptive solver stalls at kinks.
        steps: give up after these.

    Raises:
        InputError: the loss does not get there, as on data that are not separable.
    """
    field_ = _Normalised(model, log_loss)
    found = FarFlow()
    waiting = sorted((one for one in at if one > until), reverse=True)
    now = field_.value()
    if observe is not None:
        found.observed.append((now, observe(now)))
    solver = _Fixed(field_, step) if step else LSODA(field_, 0.0, field_.here(), 1e9, rtol=tolerance, atol=tolerance)
    while now > until:
        message = solver.step()
        found.steps += 1
        field_.move(solver.y)
        now = field_.value()
        if solver.status != "running" or found.steps >= steps or not math.isfinite(now):
            raise InputError(
                f"After {found.steps} steps the log loss is {now:.6g}, above {until:.6g}: {message or 'it takes too long'}.",
                "Use separable data, raise tolerance, or ask for less.",
            )
        if waiting and now <= waiting[0]:
            while waiting and now <= waiting[0]:
                waiting.pop(0)
            if observe is not None:
                found.observed.append((now, observe(now)))
    if observe is not None and found.observed[-1][0] != now:
        found.observed.append((now, observe(now)))
    found.log_loss, found.length, found.evaluations = now, float(solver.t), field_.evaluations
    return found
