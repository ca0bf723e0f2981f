"""A theorem held against many random starts: its hypotheses, its conclusions, and how often each is met."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gracile.core.errors import InputError
from gracile.one_layer.binary import coarse_slope
from gracile.one_layer.conditions import PEAK, Conditions, Theorem, check_conditions
from gracile.one_layer.iterations import Trajectories, rvscgd, rvsm
from gracile.one_layer.limits import Limit, limit_identity
from gracile.one_layer.risk import angle, largest_curvature
from gracile.one_layer.sample import gaussian_patches
from gracile.one_layer.starts import far_probability
from gracile.penalties import Penalty, elementwise
from gracile.penalties.base import Steered
from gracile.penalties.table import Named

ITERATIONS: dict[Theorem, Callable[..., Trajectories]] = {"3.1": rvsm, "3.2": rvscgd}


def largest_beta(theorem: Theorem, delta: float, k: int) -> float:
    """The largest beta that the theorem admits for this delta.

    Raises:
        InputError: no patch, or delta is beyond where that still rises: 2.03 (3.1), pi/2 (3.2).
    """
    if k < 1:
        raise InputError(f"There are no {k} patches.", "Pass patches=1 or more.")
    most = PEAK if theorem == "3.1" else math.pi / 2
    if not 0 < delta <= most:
        raise InputError(
            f"delta={delta} is not in (0, {most:.4g}].",
            f"Pass delta up to {most:.4g}; a larger one admits no larger beta.",
        )
    return delta * math.sin(delta) / (k * math.pi) if theorem == "3.1" else coarse_slope(k) * math.sin(delta)


def critical_lam(penalty: Named | Penalty, beta: float, d: int, ratio: float) -> float:
    """The lam at which weights up to ``ratio/sqrt(d)`` are zero in u.

    Raises:
        InputError: no dimension, or no such penalty on single weights.
    """
    if d < 1:
        raise InputError(f"There are no patches in R^{d}.", "Pass dim=2 or more.")
    member = elementwise(penalty)
    if not isinstance(member, Steered):
        raise InputError(
            f"{type(member).__name__} is a constraint, or does not say which mu zeroes a weight (critical_mu).",
            "Choose a penalty of the table.",
        )
    return beta * float(member.critical_mu(torch.tensor(ratio / math.sqrt(d), dtype=torch.float64)))


@dataclass(frozen=True)
class Verification:
    """What became of many starts.

    Attributes:
        conditions: the theorem's hypotheses, for the angle at the edge of what delta admits.
        seen: the trajectories.
        limit: their ends held against the theorem.
        admitted: ``(starts,)`` bool, whether the first angle is at most pi - delta; all False where other hypotheses
            fail.
        exact: the probability that a uniform start has such an angle, where other hypotheses hold.
        concluded: ``(starts,)`` bool: from no angle of delta or more did L_beta or the angle rise, and the last angle
            is below delta; pi/2 stands for delta where beta admits none.
    """

    conditions: Conditions
    seen: Trajectories
    limit: Limit
    admitted: Tensor
    exact: float
    concluded: Tensor


def verify(
    theorem: Theorem,
    w: Tensor,
    w_star: Tensor,
    k: int,
    *,
    lam: float,
    beta: float,
    steps: int,
    lr: float | None = None,
    delta: float | None = None,
    penalty: Named | Penalty = "l1",
    records: int = 101,
) -> Verification:
    """Run the theorem's iteration from all starts and compare.

    Args:
        theorem: ``3.1`` (`rvsm`) or ``3.2`` (`rvscgd`).
        w: starts of norm 1, ``(starts, d)``.
        w_star: unit teacher, ``(d,)``.
        k: patches.
        lam: weight of the penalty, at least 0.
        beta: strength of the coupling, above 0.
        steps: of the iteration.
        lr: step size; the largest that the theorem admits, by default.
        delta: the theorem's; the least that admits beta, by default.
        penalty: a row of `gracile.penalties.ELEMENTWISE`, a row with settings, or an instance.
        records: how many steps to keep of the series, evenly spaced.

    Raises:
        InputError: arguments out of range.
    """
    d, theta = len(w_star), angle(w, w_star)
    common = {"k": k, "d": d, "lam": lam, "beta": beta, "delta": delta}
    if lr is None:
        lr = check_conditions(theorem, **common, lr=1e-9, theta=0.0).largest_lr
    # Of the start alone each start decides for itself.
    setting = check_conditions(theorem, **common, lr=lr, theta=0.0)
    holds = not [name for name in setting.violated if "start" not in name] and not math.isnan(setting.delta)
    edge = setting.delta if holds else math.pi / 2
    seen = ITERATIONS[theorem](
        w, w_star, k, lam=lam, beta=beta, lr=lr, steps=steps, penalty=penalty, records=records
    )  # fmt: skip
    limit = limit_identity(theorem, seen.w, w_star, k, lam=lam, beta=beta, penalty=penalty)
    admitted = (theta <= math.pi - edge) & torch.tensor(holds)
    concluded = (seen.lagrangian_rise_from < edge) & (seen.angle_rise_from < edge) & (limit.theta < edge)
    exact = far_probability(edge, d) if holds else 0.0
    conditions = check_conditions(theorem, **common, lr=lr, theta=float(theta.max()))
    return Verification(conditions, seen, limit, admitted, exact, concluded)


def gradient_ratio(seen: Trajectories, k: int, *, beta: float, lr: float) -> Tensor:
    """Theorem 3.1 (ii) with its constant, ``(starts,)``, at most 1.

    A step of lr takes at least ``lr (1 - lr (h + beta)/2) |grad L_beta|^2`` off L_beta, h the largest curvature, and
    L_beta is at least 0, so after t steps the least squared gradient so far is at most ``L_beta(0)`` over t times that.
    Returned is the largest ratio of the two sides over the records.
    """
    fall = lr * (1 - lr * (largest_curvature(k) + beta) / 2)
    least = seen.gradient.square().cummin(0).values
    return (least * seen.steps[:, None] * fall / seen.lagrangian[0]).amax(0)


def sample_deviation(
    theorem: Theorem,
    w: Tensor,
    w_star: Tensor,
    k: int,
    sizes: Sequence[int],
    *,
    lam: float,
    beta: float,
    lr: float,
    steps: int,
    penalty: Named | Penalty = "l1",
    seed: int = 0,
) -> list[tuple[int, float]]:
    """How far the iteration over n inputs ends from the exact one, from the same starts.

    Args:
        theorem: ``3.1`` (`rvsm`) or ``3.2`` (`rvscgd`).
        w: starts of norm 1, ``(starts, d)``.
        w_star: unit teacher, ``(d,)``.
        k: patches.
        sizes: the numbers of inputs, each drawn anew.
        lam: weight of the penalty, at least 0.
        beta: strength of the coupling, above 0.
        lr: step size.
        steps: of the iteration.
        penalty: see `verify`.
        seed: of the inputs.

    Returns:
        Per size n and the root mean square of ``|w_n - w|`` over the starts.
    """
    settings = {"lam": lam, "beta": beta, "lr": lr, "steps": steps, "penalty": penalty, "records": 2}
    iteration = ITERATIONS[theorem]
    exact = iteration(w, w_star, k, **settings).w
    found = []
    for n in sizes:
        data = gaussian_patches(n, k, len(w_star), seed, dtype=w_star.dtype)
        ended = iteration(w, w_star, k, **settings, data=data).w
        found.append((n, float((ended - exact).square().sum(1).mean().sqrt())))
    return found
