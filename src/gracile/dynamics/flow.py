"""Gradient flow: training as an ordinary differential equation, to the accuracy at which its conserved quantities can be checked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import torch
from scipy.integrate import DOP853
from scipy.optimize import brentq
from torch import Tensor, nn

from gracile.core.errors import InputError, NonFiniteError
from gracile.dynamics.switches import Switches, switched

Loss = Callable[[nn.Module], Tensor]
SignChanges = Literal["cross", "stop", "ignore"]
# A unit that switches this many times within this share of the whole time slides along its kink.
SLIDING = 20, 1e-3
# So many steps in a row, each below this share of the whole time, are a stall.
STALLED = 20, 1e-8


@dataclass
class Flow:
    """Where the flow went.

    Attributes:
        time: reached.
        losses: at the start and at the end.
        sign_changes: times at which a ReLU switched on some example.
        stopped: whether it ended at a sign change, before `time`.
        observed: ``(time, what observe returned)``, the start included.
        evaluations: gradients taken.
    """

    time: float = 0.0
    losses: tuple[float, float] = (math.nan, math.nan)
    sign_changes: list[float] = field(default_factory=list)
    stopped: bool = False
    observed: list[tuple[float, Any]] = field(default_factory=list)
    evaluations: int = 0


def gradient_flow(
    model: nn.Module,
    loss: Loss,
    *,
    time: float,
    tolerance: float = 1e-12,
    method: Literal["adaptive", "rk4"] = "adaptive",
    step: float | None = None,
    sign_changes: SignChanges = "cross",
    observe: Callable[[float], Any] | None = None,
    records: int = 1,
) -> Flow:
    """Move a model along ``d theta / dt = -grad loss``, in float64.

    Adaptive steps are of order 8 (DOP853). Across a kink of a ReLU no solver keeps its order, so by default the
    switches are held within a smooth piece, the time at which the next one changes is found, and the integration starts
    again there. Where the flow slides along a kink there is no next piece: take ``method="rk4"`` with a fixed step,
    whose error is then proportional to the step.

    Args:
        model: in float64; its trainable parameters are moved in place.
        loss: from the model to a scalar; the same value each time it is called.
        time: how long, above 0.
        tolerance: relative and absolute tolerance of a step.
        method: ``adaptive`` or ``rk4``.
        step: of ``rk4``.
        sign_changes: at a ReLU's sign change ``cross`` exactly, ``stop``, or ``ignore`` (adaptive steps right over the
            kink). Kinks of max-pooling are always ignored. With ``rk4`` only ``ignore`` and ``cross`` (the same there:
            changes are noted).
        observe: called with the time at the start and `records` times at even distances; the model then stands there.
        records: how often.

    Returns:
        The flow; the model stands at its end.

    Raises:
        InputError: not float64, no trainable parameter, not a scalar, or the flow slides along a kink.
        NonFiniteError: the loss is not finite.
    """
    field_ = _Field(model, loss)
    if not time > 0 or records < 1 or not tolerance > 0:
        raise InputError(
            f"time={time}, tolerance={tolerance} and records={records} must be positive.", "Pass values above 0."
        )
    if method == "rk4" and (not step or step <= 0 or sign_changes == "stop"):
        raise InputError("rk4 needs a step above 0, and cannot stop at sign changes.", "Give step, or use 'adaptive'.")
    flow = Flow()
    y = field_.here()
    first = field_.value()
    if observe is not None:
        flow.observed.append((0.0, observe(0.0)))
    for number in range(1, records + 1):
        goal = time * number / records
        rk4 = method == "rk4"
        y = (
            _rk4(field_, flow, y, goal, step or 0.0)
            if rk4
            else _adaptive(field_, flow, y, goal, tolerance, sign_changes, time)
        )
        field_.move(y)
        if observe is not None:
            flow.observed.append((flow.time, observe(flow.time)))
        if flow.stopped:
            break
    flow.losses = first, field_.value()
    flow.evaluations = field_.evaluations
    return flow


class _Field:
    """The vector field -grad on flat float64 vectors, with the switches of ReLUs held or free."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self.model, self.loss = model, loss
        self.parameters = [one for one in model.parameters() if one.requires_grad]
        self.held: list[Tensor] | None = None
        self.evaluations = 0
        if not self.parameters:
            raise InputError(
                "The model has no trainable parameter.", "Call requires_grad_(True) on some of its parameters."
            )
        if any(one.dtype != torch.float64 for one in model.parameters()):
            raise InputError("Gradient flow needs float64.", "Call model.double(), and give the loss data in float64.")

    def here(self) -> np.ndarray:
        return torch.cat([one.detach().reshape(-1) for one in self.parameters]).cpu().numpy().copy()

    def move(self, y: np.ndarray) -> None:
        flat, start = torch.as_tensor(y), 0
        with torch.no_grad():
            for one in self.parameters:
                one.copy_(flat[start : start + one.numel()].reshape(one.shape))
                start += one.numel()

    def value(self) -> float:
        with torch.no_grad():
            return _scalar(self.loss(self.model)).item()

    def __call__(self, _time: float, y: np.ndarray) -> np.ndarray:
        self.move(y)
        self.evaluations += 1
        with torch.enable_grad(), Switches(self.held):
            value = _scalar(self.loss(self.model))
            gradients = torch.autograd.grad(value, self.parameters, allow_unused=True)
        if not math.isfinite(value.item()):
            raise NonFiniteError("The loss is not finite along the flow.", "Shorten the time, or scale the start down.")
        return np.concatenate(
            [
                np.zeros(one.numel()) if gradient is None else -gradient.reshape(-1).cpu().numpy()
                for one, gradient in zip(self.parameters, gradients, strict=True)
            ]
        )

    def inputs(self, y: np.ndarray) -> list[Tensor]:
        """What every ReLU reads at y, the switches being as they are held."""
        self.move(y)
        with torch.no_grad(), Switches(self.held) as watched:
            self.loss(self.model)
        return watched.inputs

    def hold(self, y: np.ndarray) -> None:
        self.held = None
        self.move(y)
        self.held = [one > 0 for one in switched(lambda: self.loss(self.model))]

    def crossing(self, y: np.ndarray) -> float:
        """The least margin to a switch's kink, negative where one should have changed."""
        assert self.held is not None
        least = math.inf
        for one, on in zip(self.inputs(y), self.held, strict=True):
            # A unit that reads exactly zero (no input, dead) does not move away by itself.
            signed = torch.where(on, one, -one)[one != 0]
            if signed.numel():
                least = min(least, signed.min().item())
        return least


def _scalar(value: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1 or value.dtype != torch.float64:
        raise InputError("The loss is not one float64 number.", "Return a scalar tensor, computed from float64 data.")
    return value


def _rk4(field_: _Field, flow: Flow, y: np.ndarray, goal: float, step: float) -> np.ndarray:
    number = max(1, math.ceil((goal - flow.time) / step - 1e-9))
    h = (goal - flow.time) / number
    signs = [one > 0 for one in field_.inputs(y)]
    for _ in range(number):
        k1 = field_(0, y)
        k2 = field_(0, y + h / 2 * k1)
        k3 = field_(0, y + h / 2 * k2)
        k4 = field_(0, y + h * k3)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        flow.time += h
        now = [one > 0 for one in field_.inputs(y)]
        if any(bool((a != b).any()) for a, b in zip(now, signs, strict=True)):
            flow.sign_changes.append(flow.time)
        signs = now
    flow.time = goal
    return y


def _adaptive(
    field_: _Field, flow: Flow, y: np.ndarray, goal: float, tolerance: float, sign_changes: SignChanges, whole: float
) -> np.ndarray:
    if sign_changes == "ignore":
        y = _smooth(field_, flow.time, y, goal, tolerance)
        flow.time = goal
        return y
    while flow.time < goal:
        field_.hold(y)
        try:
            time, y, changed = _piece(field_, flow.time, y, goal, tolerance)
        finally:
            field_.held = None
        flow.time = time
        if changed:
            flow.sign_changes.append(time)
            _refuse_sliding(flow, whole)
            if sign_changes == "stop":
                flow.stopped = True
                break
    return y


def _refuse_sliding(flow: Flow, whole: float) -> None:
    number, share = SLIDING
    recent = flow.sign_changes[-number:]
    if len(recent) == number and recent[-1] - recent[0] < share * whole / number:
        raise InputError(
            f"At time {flow.time:.6g} the flow slides along the kink of a ReLU, which switches ever faster.",
            "Take method='rk4' with a fixed step, or sign_changes='stop'.",
        )


class _Solver(DOP853):
    stalled = 0  # very small steps in a row


def _solver(field_: _Field, start: float, y: np.ndarray, goal: float, tolerance: float) -> _Solver:
    return _Solver(field_, start, y, goal, rtol=max(tolerance, 1e-13), atol=tolerance)


def _advance(solver: _Solver) -> None:
    message = solver.step()
    small = abs(solver.t - (solver.t_old or 0.0)) < STALLED[1] * abs(solver.t_bound) and solver.status == "running"
    solver.stalled = solver.stalled + 1 if small else 0
    if solver.stalled >= STALLED[0]:
        raise InputError(
            f"The solver makes no way at time {solver.t:.6g}, as at the kink of a max-pooling or of a loss.",
            "Take method='rk4' with a fixed step.",
        )
    if solver.status == "failed":
        raise InputError(
            f"The solver stopped at time {solver.t:.6g}: {message}.",
            "Raise tolerance, or take method='rk4' with a fixed step.",
        )


def _smooth(field_: _Field, start: float, y: np.ndarray, goal: float, tolerance: float) -> np.ndarray:
    solver = _solver(field_, start, y, goal, tolerance)
    while solver.status == "running":
        _advance(solver)
    return solver.y


def _piece(
    field_: _Field, start: float, y: np.ndarray, goal: float, tolerance: float
) -> tuple[float, np.ndarray, bool]:
    """Up to `goal` or just behind the next sign change, whichever is first, with the switches held."""
    solver = _solver(field_, start, y, goal, tolerance)
    while solver.status == "running":
        before, there = solver.t, solver.y.copy()
        _advance(solver)
        if field_.crossing(solver.y) >= 0:
            continue
        dense = solver.dense_output()

        def margin(time: float, dense: Any = dense) -> float:
            return field_.crossing(dense(time))

        time = solver.t
        if margin(before) > 0:
            time = float(cast(float, brentq(margin, before, solver.t, xtol=1e-14)))
        # Just behind the kink, so that the changed switch is seen; the dense output only found the place.
        time = min(solver.t, time + max(1e-12, 1e-10 * (solver.t - before)))
        return time, _smooth(field_, before, there, time, tolerance), True
    return solver.t, solver.y, False
