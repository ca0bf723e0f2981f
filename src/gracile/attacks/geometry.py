"""Balls and steps: what attacks in l-inf, l2 and l1 share."""

from __future__ import annotations

import torch
from torch import Tensor

# Share of the coordinates, those of largest gradient, that a step in l1 moves, as SLIDE has it [@tramer2019].
SPARSE = 0.01
# Newton's steps of a projection onto an l1 ball; about ten are taken.
NEWTON = 100


def column(values: Tensor, like: Tensor) -> Tensor:
    """One value a sample, (n,), shaped to multiply (n, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def size(delta: Tensor, norm: str) -> Tensor:
    """The norm of each sample's perturbation: (n, ...) to (n,)."""
    flat = delta.flatten(1)
    return flat.abs().amax(dim=1) if norm == "linf" else flat.norm(dim=1, p=1 if norm == "l1" else 2)


def project(moved: Tensor, x: Tensor, eps: float, norm: str) -> Tensor:
    """The nearest point of the ball around `x` within [0, 1]; for l2 a point of both that is near.

    Args:
        moved: the points (n, ...).
        x: centres of the balls (n, ...) in [0, 1].
        eps: radius.
        norm: ``linf``, ``l2`` or ``l1``.
    """
    delta = moved - x
    if norm == "l1":
        return _sparse_step(delta, x, eps).add_(x).clamp_(0, 1)
    delta = delta.clamp_(-eps, eps) if norm == "linf" else delta * _shrink(size(delta, norm), eps, x)
    # x is in [0, 1]: clamping only shortens the perturbation, so it stays in the ball.
    return delta.add_(x).clamp_(0, 1)


def _shrink(length: Tensor, eps: float, like: Tensor) -> Tensor:
    return column((eps / length.clamp_min(1e-12)).clamp_max(1.0), like)


def direction(gradient: Tensor, norm: str) -> Tensor:
    """The steepest direction of unit norm; 0 where the gradient is.

    The sign for l-inf and the scaled gradient for l2. For l1, where it is a single coordinate, the equal share of the `SPARSE` that
    are largest, since one coordinate a step leads nowhere.
    """
    if norm == "linf":
        return gradient.sign()
    if norm == "l1":
        return sparse_sign(gradient, torch.full((len(gradient),), SPARSE, device=gradient.device))
    # Divided by the largest entry first, a gradient of 1e-30 keeps its direction: its square would be 0 in float32.
    largest = column(gradient.flatten(1).abs().amax(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny), gradient)
    scaled = gradient / largest
    return scaled / column(size(scaled, norm).clamp_min(1e-12), gradient)


def random_in_ball(x: Tensor, eps: float, norm: str, generator: torch.Generator) -> Tensor:
    """A point drawn uniformly from the ball around each sample, cut to [0, 1]."""
    if norm == "linf":
        noise = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return x.add(noise.mul_(2 * eps).sub_(eps)).clamp_(0, 1)
    if norm == "l1":
        # A difference of exponential variates is Laplace's, whose density depends on the l1 norm alone.
        one, two = (torch.empty_like(x).exponential_(generator=generator) for _ in range(2))
        noise = one - two
    else:
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    radius = torch.rand(len(x), generator=generator, device=x.device, dtype=x.dtype) ** (1 / x[0].numel())
    noise = noise * column(eps * radius / size(noise, norm).clamp_min(1e-12), x)
    return project(x + noise, x, eps, norm)


def sparse_sign(gradient: Tensor, share: Tensor) -> Tensor:
    """The signs of each sample's largest entries, scaled to an l1 norm of 1.

    Args:
        gradient: (n, ...).
        share: (n,) in [0, 1], of the entries; at least one is taken, and all that equal the smallest taken.
    """
    flat = gradient.flatten(1).abs()
    count = flat.shape[1]
    ranked = flat.sort(dim=1).values
    least = ranked.gather(1, ((1 - share) * count).long().clamp(0, count - 1)[:, None])
    sign = gradient.sign() * (flat >= least).view_as(gradient)
    return sign / column(size(sign, "l1").clamp_min(1), gradient)


def _sparse_step(delta: Tensor, x: Tensor, eps: float) -> Tensor:
    """The nearest perturbation in l2 of l1 norm at most `eps` that stays in the box [@croce2021, proposition 2.1].

    Along each coordinate it is ``min(max(|delta| - lam, 0), room)``, whose sum falls with lam in linear pieces: Newton's method,
    held within a bracket, meets the root in finitely many steps and without sorting.

    Args:
        delta: (n, ...).
        x: (n, ...) in [0, 1].
        eps: radius.
    """
    flat, at = delta.flatten(1), x.flatten(1)
    far, room = flat.abs(), torch.where(flat > 0, 1 - at, at)
    lam = torch.zeros(len(flat), 1, device=flat.device, dtype=flat.dtype)
    low, high = lam, far.amax(dim=1, keepdim=True)
    step = far.minimum(room)
    for _ in range(NEWTON):
        over = step.sum(dim=1, keepdim=True) - eps
        go = (over > 1e-6 * eps) | ((over < -1e-6 * eps) & (lam > 0))
        if not bool(go.any()):
            break
        low, high = torch.where(over > 0, lam, low), torch.where(over > 0, high, lam)
        slope = ((step > 0) & (step < room)).sum(dim=1, keepdim=True)
        nearer = lam + over / slope.clamp_min(1)
        inside = (nearer > low) & (nearer < high) & (slope > 0)
        lam = torch.where(go, torch.where(inside, nearer, (low + high) / 2), lam)
        step = (far - lam).clamp_min_(0).minimum(room)
    return (step * flat.sign()).view_as(delta)
