"""Carlini and Wagner's attacks: the margin inside an l-inf ball, and the smallest l2 perturbation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gracile.attacks.fab import away, difference
from gracile.attacks.geometry import column, size
from gracile.attacks.losses import climbed
from gracile.attacks.pgd import pgd
from gracile.attacks.victim import Loss, Mode, Model, Precision, Victim, attack, attacking, finished
from gracile.core.errors import InputError

# Wrong classes whose boundaries are linearised, and how many of them l2 tries beside the one the margin leads to.
RANKED, ALTERNATIVES = 9, 2


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
    restarts: int = 5,
    searches: int = 9,
    lr: float = 0.05,
    kappa: float = 0.0,
    targeted: bool = False,
    draws: int | None = None,
    seed: int = 0,
    mode: Mode = "eval",
    chunk: int | None = None,
    precision: Precision = "float32",
) -> Tensor:
    """@carlini2017, in the two forms the field reports.

    ``l-inf``: projected ascent on the margin ``max_{i != y} z_i - z_y`` inside the ball, `steps` of length `alpha`, from
    `restarts` random starts; samples leave the batch once broken. A single start misses a quarter of what can be broken where
    the margin has hollows (measured against the exact answer of integer programs).

    ``l2``: the smallest perturbation that breaks a sample, ``min |d|^2 + c max(kappa - margin, 0)`` with Adam in the space where
    ``x = (sin(w) + 1) / 2`` (in the paper's, with tanh, pixels at 0 or 1 do not move), `c` found by `searches` bisections for
    each sample by itself; untargeted, two more classes with near boundaries are tried. With `eps`, perturbations larger than it
    are given up.

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
        model, x, y, eps=eps, norm=norm, norms=("linf", "l2"), targeted=targeted, draws=draws, seed=seed, mode=mode, chunk=chunk,
        precision=precision, steps=steps, searches=searches,
    ) as (victim, x, y):  # fmt: skip
        rows = (~victim.breaks(x, victim.logits(x), y)).nonzero().squeeze(1)
        adversarial = x.clone()
        if len(rows):
            nearest, distance = _nearest_of_all(victim, x[rows], y[rows], steps, searches, lr, kappa)
            kept = distance <= (math.inf if eps is None else eps)
            kept &= torch.isfinite(distance)
            adversarial[rows[kept]] = nearest[kept]
        return finished(adversarial, given)


def _nearest_of_all(
    victim: Victim, x: Tensor, y: Tensor, steps: int, searches: int, lr: float, kappa: float
) -> tuple[Tensor, Tensor]:
    """The nearest adversarial points found and their distances, infinite where there is none.

    The margin leads to the class that is likeliest on the way, not to the nearest: of the others, those are tried whose boundaries
    are nearest by their linearisation at `x`.
    """
    margin = climbed("margin", targeted=victim.targeted)
    best, distance = _nearest(victim, x, (y,), margin, steps, searches, lr, kappa)
    if victim.targeted:
        return best, distance
    for target in _other_classes(victim, x, y, best):
        found, length = _nearest(victim, x, (y, target), difference, steps, searches, lr, kappa)
        nearer = length < distance
        best[nearer], distance[nearer] = found[nearer], length[nearer]
    return best, distance


def _other_classes(victim: Victim, x: Tensor, y: Tensor, reached: Tensor) -> list[Tensor]:
    """Up to `ALTERNATIVES` classes a sample, (n,) each, that are neither `y` nor the answer at `reached`, nearest first."""
    logits = victim.logits(x)
    taken = torch.stack([y, victim.logits(reached).argmax(dim=1)], dim=1)
    likely = logits.scatter(1, taken, float("-inf")).argsort(dim=1, descending=True)
    likely = likely[:, : min(RANKED, logits.shape[1] - 2)]
    if not likely.shape[1]:
        return []
    gaps = [victim.gradient(x, difference, y, one) for one in likely.unbind(dim=1)]
    far = torch.stack([away(gap, slope, "l2") for gap, _, slope in gaps], dim=1)
    return list(likely.gather(1, far.argsort(dim=1))[:, :ALTERNATIVES].unbind(dim=1))


def _nearest(
    victim: Victim,
    x: Tensor,
    labels: tuple[Tensor, ...],
    gain: Loss,
    steps: int,
    searches: int,
    lr: float,
    kappa: float,
) -> tuple[Tensor, Tensor]:
    """The nearest adversarial points found by climbing one gain and their distances, infinite where there is none."""
    y = labels[0]
    # Adam's guard against division by 0 is 0 itself in half precision.
    exact = torch.promote_types(x.dtype, torch.float32)
    clean = x.to(exact)
    # In the paper's (tanh(w) + 1) / 2 a pixel at 0 or 1 lies at infinity, where nothing moves it. The sine keeps to the box
    # as well and leaves its ends after a step or two; a hair inside, it has a slope to leave by.
    origin = torch.asin((2 * clean - 1) * (1 - 1e-6))
    c = torch.ones(len(x), device=x.device, dtype=exact)
    low, high = torch.zeros_like(c), torch.full_like(c, math.inf)
    best, distance = x.clone(), torch.full_like(c, math.inf)
    for _ in range(searches):
        w = origin.clone()
        optimizer = torch.optim.Adam([w], lr=lr)
        found = torch.zeros_like(c, dtype=torch.bool)
        for step in range(steps):
            # The rate falls to a hundredth along half a cosine: large steps find the boundary, small ones settle on it.
            optimizer.param_groups[0]["lr"] = lr * (0.505 + 0.495 * math.cos(math.pi * step / steps))
            at = ((torch.sin(w) + 1) / 2).to(x.dtype)
            # Descending c max(kappa - gain, 0), so its gradient is -c times that of the gain while the hinge is active.
            gains, logits, gradient = victim.gradient(at, gain, *labels)
            length = size(at.to(exact) - clean, "l2")
            nearer = victim.breaks(at, logits, y, among=length < distance)
            best[nearer], distance[nearer] = at[nearer], length[nearer]
            found |= nearer | (victim.broken(logits, y) & torch.isfinite(distance))
            pull = column(torch.where(gains < kappa, c, 0.0), clean)
            w.grad = (2 * (at.to(exact) - clean) - pull * gradient.to(exact)) * torch.cos(w) / 2
            optimizer.step()
        high = torch.where(found, c.minimum(high), high)
        low = torch.where(found, low, c.maximum(low))
        c = torch.where(torch.isfinite(high), (low + high) / 2, c * 10)
    return best, distance
