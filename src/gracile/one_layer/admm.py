"""ADMM with a penalty's own proximal map on the one-layer network: what relaxed splitting is without the multiplier."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gracile.core.errors import NonFiniteError
from gracile.one_layer import sample
from gracile.one_layer.iterations import checked
from gracile.one_layer.risk import population_gradient
from gracile.penalties import Penalty
from gracile.penalties.base import unchecked
from gracile.penalties.table import Named


@dataclass(frozen=True)
class Agreed:
    """Where ADMM ended.

    Attributes:
        w: ``(starts, d)``, the weights.
        u: ``(starts, d)``, their sparse twins.
        z: ``(starts, d)``, the multipliers.
    """

    w: Tensor
    u: Tensor
    z: Tensor


@torch.no_grad()
def admm(
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
) -> Agreed:
    """The augmented Lagrangian with multiplier, by one gradient step in w for each update [@dinh2020, eqs. 3.10 and 3.11].

    A step is ``u = prox(w + z/beta)``, ``w <- w - lr (grad f(w) + z + beta (w - u))``, then ``z <- z + beta (w - u)``. Where it comes to
    rest w = u and the risk's slope is a slope of the penalty, so that w keeps what `rvsm` leaves out: use it to see what the
    relaxed splitting gains by leaving the gap open.

    Arguments and errors are those of `rvsm`.

    >>> from gracile.one_layer import random_starts, rvsm, sparse_teacher
    >>> start, w_star = random_starts(2, 50), sparse_teacher(50, 5)
    >>> asked = {"lam": 2e-3, "beta": 0.02, "lr": 0.5, "steps": 4000}
    >>> with_multiplier, without = admm(start, w_star, 10, **asked), rvsm(start, w_star, 10, **asked)
    >>> bool((with_multiplier.w - with_multiplier.u).norm(dim=1).max() < (without.w - without.u).norm(dim=1).min())
    True
    """
    member = checked(w, w_star, k, lam, beta, lr, steps, penalty, data, records=2)
    w = (w if w.ndim == 2 else w[None]).to(w_star.dtype).clone()
    z, u = torch.zeros_like(w), w
    for _ in range(steps):
        u = unchecked(member)(w + z / beta, lam / beta)
        slope = population_gradient(w, w_star, k) if data is None else sample.sample_gradient(w, w_star, data)
        w = w - lr * (slope + z + beta * (w - u))
        z = z + beta * (w - u)
    if not bool(torch.isfinite(w).all()):
        raise NonFiniteError("An iterate stopped being finite.", "Lower lr.")
    return Agreed(w, unchecked(member)(w + z / beta, lam / beta), z)
