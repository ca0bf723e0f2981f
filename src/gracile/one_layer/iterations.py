"""RVSM and RVSCGD on the one-layer network, from many starts at once, on the exact risk or on a sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gracile.core.errors import InputError, NonFiniteError
from gracile.core.threads import torch_threads
from gracile.one_layer import sample
from gracile.one_layer.binary import coarse_slope
from gracile.one_layer.risk import check_shapes, risk_of
from gracile.penalties import Constraint, Penalty, elementwise
from gracile.penalties.base import unchecked
from gracile.penalties.table import Named

# Starts that go through all steps together: fewer are more calls, and more leave threads idle.
CHUNK_BYTES = 2**21


@dataclass(frozen=True)
class Trajectories:
    """What was seen on the way, per recorded step and start; ``u = prox(w)``.

    Attributes:
        steps: ``(records,)``, the steps recorded, 0 and the last among them.
        lagrangian: ``(records, starts)``, ``f(w) + lam P(u) + beta/2 |w - u|^2``.
        risk: f(w).
        theta: angle to w* in [0, pi].
        distance: ``|w - w*|``.
        gap: ``|w - u|``.
        gradient: norm of L_beta's gradient in w; for `rvscgd` of its coarse one along the sphere.
        sparsity: share in [0, 1] of exact zeros in u.
        support: share in [0, 1] of u's support and the teacher's that both have in common, over their union; 1 is
            recovery.
        w: ``(starts, d)``, the last.
        u: ``(starts, d)``, the last.
        lagrangian_rise: ``(starts,)``, the largest rise of L_beta over any single step, recorded or not; at most 0
            where there was none.
        lagrangian_rise_from: the largest angle from which it rose by more than rounding; 0 where it never did.
        angle_rise: as `lagrangian_rise`, of the angle.
        angle_rise_from: as `lagrangian_rise_from`, of the angle.
        potential_rise: the largest rise of L_beta with, in place of f, what the step is the gradient of: f itself for
            `rvsm`, ``c (1 - cos theta)``, c the `coarse_slope`, for `rvscgd`; NaN for `rvscgd` on data, where there is
            none.
        least_gradient: the least gradient norm over all steps.
    """

    steps: Tensor
    lagrangian: Tensor
    risk: Tensor
    theta: Tensor
    distance: Tensor
    gap: Tensor
    gradient: Tensor
    sparsity: Tensor
    support: Tensor
    w: Tensor
    u: Tensor
    lagrangian_rise: Tensor
    lagrangian_rise_from: Tensor
    angle_rise: Tensor
    angle_rise_from: Tensor
    potential_rise: Tensor
    least_gradient: Tensor


SERIES = ("lagrangian", "risk", "theta", "distance", "gap", "gradient", "sparsity", "support")
# A rise below this is rounding.
ROUNDING = 1e-12


def rvsm(
    w: Tensor,
    w_star: Tensor,
    k: int,
    *,
    lam: float,
    beta: float,
    lr: float,
    steps: int,
    penalty: Named | Penalty = "l1",
    data: Tensor | None = None,
    records: int = 101,
) -> Trajectories:
    """Relaxed variable splitting with the ReLU [@dinh2020, algorithm 1].

    A step is ``u = prox(w)``, then ``w <- w - lr grad f(w) - lr beta (w - u)``.

    Args:
        w: starts, ``(starts, d)`` or ``(d,)``, none zero.
        w_star: the teacher of norm 1, ``(d,)``.
        k: patches; with `data` those of the data.
        lam: weight of the penalty, at least 0.
        beta: strength of the coupling, above 0.
        lr: step size, above 0; `check_conditions` says which are admissible.
        steps: how many, at least 1.
        penalty: a row of `gracile.penalties.ELEMENTWISE`, a row with settings, or an instance.
        data: inputs ``(n, k, d)``, for the mean over them in place of the exact risk.
        records: how many steps to keep of the series, evenly spaced.

    Raises:
        InputError: arguments out of range, a teacher that is not of norm 1, a start at zero.
        NonFiniteError: an iterate stopped being finite.

    >>> from gracile.one_layer import random_starts, sparse_teacher
    >>> w_star = sparse_teacher(50, 5)
    >>> seen = rvsm(random_starts(3, 50), w_star, 10, lam=1e-3, beta=0.02, lr=0.5, steps=500)
    >>> bool((seen.lagrangian_rise <= 1e-14).all()), bool((seen.distance[-1] < 0.1).all())
    (True, True)
    """

    def force(w: Tensor, norm: Tensor, theta: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        if data is not None:
            return sample.sample_gradient(w, w_star, data)
        square = (k * k - k) / math.pi
        along = (k + square - (k / math.pi * theta.sin() + square) / norm) / k**2
        return along, (theta - math.pi) / (k * math.pi)

    def risk(w: Tensor, norm: Tensor, theta: Tensor) -> Tensor:
        return risk_of(norm, theta, k) if data is None else sample.sample_risk(w, w_star, data)

    member = checked(w, w_star, k, lam, beta, lr, steps, penalty, data, records)
    return _Walk(w_star, lam, beta, lr, member, force, risk, lambda risk, theta: risk).run(w, steps, records)


def rvscgd(
    w: Tensor,
    w_star: Tensor,
    k: int,
    *,
    lam: float,
    beta: float,
    lr: float,
    steps: int,
    penalty: Named | Penalty = "l1",
    data: Tensor | None = None,
    records: int = 101,
) -> Trajectories:
    """Relaxed variable splitting by coarse gradients with the step function [@dinh2020, algorithm 2].

    A step is ``u = prox(w)``, ``v = w - lr E g - lr beta (w - u)``, then ``w <- v/|v|``. Starts are normalised first.

    Arguments and errors are those of `rvsm`.
    """
    slope = coarse_slope(k)

    def force(w: Tensor, norm: Tensor, theta: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        if data is not None:
            return sample.sample_coarse_gradient(w, w_star, data)
        return torch.full_like(norm, slope), torch.full_like(norm, -slope)

    def risk(w: Tensor, norm: Tensor, theta: Tensor) -> Tensor:
        return k / math.pi * theta if data is None else sample.sample_binary_risk(w, w_star, data)

    def potential(risk: Tensor, theta: Tensor) -> Tensor:
        return 2 * slope * (theta / 2).sin().square() if data is None else risk * math.nan

    member = checked(w, w_star, k, lam, beta, lr, steps, penalty, data, records)
    w = w / w.norm(dim=-1, keepdim=True)
    return _Walk(w_star, lam, beta, lr, member, force, risk, potential, normalise=True).run(w, steps, records)


# The gradient of f, or the two numbers per start by which it is a sum of w and w_star.
Force = Callable[[Tensor, Tensor, Tensor], "tuple[Tensor, Tensor] | Tensor"]
Risk = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class _Walk:
    """One iteration's formulas and coefficients."""

    w_star: Tensor
    lam: float
    beta: float
    lr: float
    penalty: Penalty
    force: Force
    risk: Risk
    potential: Callable[[Tensor, Tensor], Tensor]
    normalise: bool = False

    def run(self, w: Tensor, steps: int, records: int) -> Trajectories:
        """All steps from all starts, chunk by chunk, as many at once as torch has threads: an operation is too small to be shared."""
        starts = (w if w.ndim == 2 else w[None]).to(self.w_star.dtype)
        recorded = torch.linspace(0, steps, min(records, steps + 1)).round().long().unique()
        chunk = max(1, CHUNK_BYTES // (starts.shape[1] * starts.element_size()))
        with torch_threads(1) as threads, ThreadPoolExecutor(threads) as pool:
            run = partial(self._chunk, steps=steps, recorded=set(recorded.tolist()))
            parts = list(pool.map(run, starts.split(chunk)))
        joined = {
            name: torch.cat([part[name] for part in parts], dim=0 if name in ("w", "u") else -1) for name in parts[0]
        }
        return Trajectories(steps=recorded, **joined)

    # In a thread of its own gradients are on again.
    @torch.no_grad()
    def _chunk(self, starts: Tensor, steps: int, recorded: set[int]) -> dict[str, Tensor]:
        """All steps of one chunk of starts."""
        w, star = starts.clone(), self.w_star
        support, work = star != 0, torch.empty_like(w)
        series: dict[str, list[Tensor]] = {name: [] for name in SERIES}
        rises, least, u = _Rises(len(w), w), torch.full_like(w[:, 0], math.inf), w
        prox, values = unchecked(self.penalty), torch.vmap(self.penalty.value)
        for step in range(steps + 1):
            along_star = w @ star
            # The part across w* by itself, so that small angles keep their digits.
            off = torch.addcmul(w, along_star[:, None], star, value=-1, out=work).norm(dim=1)
            norm, theta = torch.hypot(along_star, off), torch.atan2(off, along_star)
            u = prox(w, self.lam / self.beta)
            gap = torch.sub(w, u, out=work)
            gap_norm = gap.norm(dim=1)
            risk = self.risk(w, norm, theta)
            pull = self.lam * values(u) + self.beta / 2 * gap_norm.square()
            rises.see(risk + pull, theta, self.potential(risk, theta) + pull)
            gradient = self._gradient(gap, w, norm, theta)
            size = self._size(gradient, w)
            least = torch.minimum(least, size)
            if step in recorded:
                alive = u != 0
                shared = (alive & support).sum(1) / (alive | support).sum(1)
                zeros = 1 - alive.sum(1) / w.shape[1]
                found = (risk + pull, risk, theta, (w - star).norm(dim=1), gap_norm, size, zeros, shared)
                for name, value in zip(SERIES, found, strict=True):
                    series[name].append(value.to(w))
            if step < steps:
                w.sub_(gradient, alpha=self.lr)
                if self.normalise:
                    w /= w.norm(dim=1, keepdim=True)
        if not bool(torch.isfinite(w).all()):
            raise NonFiniteError("An iterate stopped being finite.", "Lower lr; check_conditions says how far.")
        stacked = {name: torch.stack(values) for name, values in series.items()}
        return stacked | rises.found() | {"w": w, "u": u, "least_gradient": least}

    def _gradient(self, gap: Tensor, w: Tensor, norm: Tensor, theta: Tensor) -> Tensor:
        """``grad f(w) + beta (w - u)``, over `gap`, which holds ``w - u``."""
        force = self.force(w, norm, theta)
        if isinstance(force, Tensor):
            return gap.mul_(self.beta).add_(force)
        along, toward = force
        return gap.addmm_(toward[:, None], self.w_star[None], beta=self.beta).addcmul_(along[:, None], w)

    def _size(self, gradient: Tensor, w: Tensor) -> Tensor:
        """The gradient's norm; on the sphere of its tangential part."""
        if not self.normalise:
            return gradient.norm(dim=1)
        return (gradient - (gradient * w).sum(1, keepdim=True) * w).norm(dim=1)


class _Rises:
    """How far the Lagrangian, the angle and the potential rose in any one step, and from which angles."""

    def __init__(self, starts: int, like: Tensor) -> None:
        # Lagrangian, angle and potential, a row each; below, Lagrangian and angle.
        self.before: Tensor | None = None
        self.most = like.new_full((3, starts), -math.inf)
        self.highest = like.new_zeros(2, starts)

    def see(self, lagrangian: Tensor, theta: Tensor, potential: Tensor) -> None:
        now = torch.stack([lagrangian, theta, potential])
        if self.before is not None:
            changes = now - self.before
            torch.maximum(self.most, changes, out=self.most)
            # What a risk of size k/pi theta loses to rounding grows with it.
            limits = torch.full_like(now[:2], ROUNDING)
            limits[0] *= 1 + lagrangian
            here = torch.where(changes[:2] > limits, self.before[1], 0.0)
            torch.maximum(self.highest, here, out=self.highest)
        self.before = now

    def found(self) -> dict[str, Tensor]:
        lagrangian, angle, potential = self.most
        return {
            "lagrangian_rise": lagrangian,
            "lagrangian_rise_from": self.highest[0],
            "angle_rise": angle,
            "angle_rise_from": self.highest[1],
            "potential_rise": potential,
        }


def checked(
    w: Tensor,
    w_star: Tensor,
    k: int,
    lam: float,
    beta: float,
    lr: float,
    steps: int,
    penalty: Named | Penalty,
    data: Tensor | None,
    records: int,
) -> Penalty:
    """The penalty, once everything is known to be in range."""
    check_shapes(w, w_star, k)
    if not (lam >= 0 and math.isfinite(lam)):
        raise InputError(f"lam must be a finite number of at least 0, not {lam}.", "Start from 1e-3.")
    for name, value in (("beta", beta), ("lr", lr)):
        if not (value > 0 and math.isfinite(value)):
            raise InputError(
                f"{name} must be a finite number above 0, not {value}.",
                f"Pass {name} > 0; check_conditions says which values the theorem admits.",
            )
    for name, value, least in (("steps", steps, 1), ("records", records, 2)):
        if value < least:
            raise InputError(f"{name}={value} must be at least {least}.", f"Raise {name}.")
    if w.ndim > 2:
        raise InputError(f"Starts of shape {tuple(w.shape)} are not (starts, d).", "Flatten them.")
    if not math.isclose(float(w_star.norm()), 1.0, rel_tol=1e-5):
        raise InputError("The theorems take a teacher of norm 1.", "Divide w_star by its norm.")
    if not bool((w.norm(dim=-1) > 0).all()):
        raise InputError("A start is zero or not a number.", "Start from filters that are not zero.")
    if data is not None and (data.ndim != 3 or data.shape[1:] != (k, len(w_star))):
        raise InputError(
            f"Inputs of shape {tuple(data.shape)} are not (n, {k}, {len(w_star)}).", "Use gaussian_patches(n, k, d)."
        )
    member = elementwise(penalty)
    if isinstance(member, Constraint):
        raise InputError(
            f"{type(member).__name__} is a constraint, which the theorems do not cover.",
            "Choose a penalty, such as l0.",
        )
    return member
