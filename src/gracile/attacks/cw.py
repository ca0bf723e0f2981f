"""Carlini and Wagner's attacks: the margin inside an l-inf ball, and the smallest l2 perturbation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gracile.attacks.geometry import column, size
from gracile.attacks.losses import climbed
from gracile.attacks.pgd import pgd
from gracile.attacks.victim import Mode, Model, Precision, Victim, attack, attacking, finished
from gracile.core.errors import InputError


@attack
def cw(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | None = 8 / 255,
    steps: int = 100,
    alpha: float | None = None,
    norm: str = "linf",
    restarts: int = 1,
    searches: int = 9,
    lr: float = 0.01,
    kappa: float = 0.0,
    targeted: bool = False,
    draws: int | None = None,
    seed: int = 0,
    mode: Mode = "eval",
    chunk: int | None = None,
    precision: Precision = "float32",
) -> Tensor:
    """Carlini and Wagner 2017, in the two forms the field reports.

    ``l-inf``: projected ascent on the margin ``max_{i != y} z_i - z_y`` inside the ball, `steps` of length `alpha`, from
    `restarts` random starts; samples leave the batch once broken.

    ``l2``: the smallest perturbation that breaks a sample, ``min |d|^2 + c max(kappa - margin, 0)`` with Adam in the space where
    ``x = (tanh(w) + 1) / 2``, `c` found by `searches` bisections for each sample by itself. With `eps`, perturbations larger
    than it are given up.

    Args:
        model, x, y, eps, targeted, draws, seed, mode, chunk, precision: see `gracile.attacks.pgd`; ``eps=None``, only with l2, keeps
            the smallest perturbation however large.
        steps: gradients a restart, or a search.
        alpha: l-inf's length of a step; None for a quarter of `eps`.
        norm: ``linf`` or ``l2``.
        restarts: of l-inf.
        searches, lr, kappa: of l2: bisections over c, Adam's rate, and the margin asked beyond a tie.

    Returns:
        (n, ...) in [0, 1]; under l2 a sample that was not broken comes back as it was.

    Raises:
        InputError: an argument that cannot be used, l-inf without `eps` among them.
        NonFiniteError: gradients that are not finite.
    """
    if norm == "linf":
        if eps is None:
            raise InputError(
                "The l-inf form works inside a ball, and eps is None.", "Give eps, or use fab or norm='l2'."
            )
        return pgd(
            model, x, y, eps=eps, steps=steps, alpha=alpha, loss="margin", restarts=restarts, early_stop=True,
            targeted=targeted, draws=draws, seed=seed, mode=mode, chunk=chunk, precision=precision,
        )  # fmt: skip
    given = x
    with attacking(
        model, x, y, eps=eps, norm=norm, targeted=targeted, draws=draws, seed=seed, mode=mode, chunk=chunk, precision=precision,
        steps=steps, searches=searches,
    ) as (victim, x, y):  # fmt: skip
        rows = (~victim.breaks(x, victim.logits(x), y)).nonzero().squeeze(1)
        adversarial = x.clone()
        if len(rows):
            nearest, distance = _nearest(victim, x[rows], y[rows], steps, searches, lr, kappa)
            kept = distance <= (math.inf if eps is None else eps)
            kept &= torch.isfinite(distance)
            adversarial[rows[kept]] = nearest[kept]
        return finished(adversarial, given)


def _nearest(
    victim: Victim, x: Tensor, y: Tensor, steps: int, searches: int, lr: float, kappa: float
) -> tuple[Tensor, Tensor]:
    """The nearest adversarial points found and their distances, infinite where there is none."""
    gain = climbed("margin", targeted=victim.targeted)
    # A pixel at exactly 0 or 1 lies at infinity in w; a hair inside, it can move.
    origin = torch.atanh((2 * x - 1) * (1 - 1e-6))
    c = torch.ones(len(x), device=x.device, dtype=x.dtype)
    low, high = torch.zeros_like(c), torch.full_like(c, math.inf)
    best, distance = x.clone(), torch.full_like(c, math.inf)
    for _ in range(searches):
        w = origin.clone()
        optimizer = torch.optim.Adam([w], lr=lr)
        found = torch.zeros_like(c, dtype=torch.bool)
        for _ in range(steps):
            at = (torch.tanh(w) + 1) / 2
            # Descending c max(kappa - gain, 0), so its gradient is -c times that of the gain while the hinge is active.
            gains, logits, gradient = victim.gradient(at, gain, y)
            broken = victim.broken(logits, y)
            length = size(at - x, "l2")
            nearer = broken & (length < distance)
            best[nearer], distance[nearer] = at[nearer], length[nearer]
            found |= broken
            pull = column(torch.where(gains < kappa, c, 0.0), x)
            w.grad = (2 * (at - x) - pull * gradient) * (2 * at * (1 - at))
            optimizer.step()
        high = torch.where(found, c.minimum(high), high)
        low = torch.where(found, low, c.maximum(low))
        c = torch.where(torch.isfinite(high), (low + high) / 2, c * 10)
    return best, distance
