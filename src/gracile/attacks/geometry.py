"""Balls and steps: what l-inf and l2 attacks share."""

from __future__ import annotations

import torch
from torch import Tensor


def column(values: Tensor, like: Tensor) -> Tensor:
    """One value a sample, (n,), shaped to multiply (n, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def size(delta: Tensor, norm: str) -> Tensor:
    """The norm of each sample's perturbation: (n, ...) to (n,)."""
    flat = delta.flatten(1)
    return flat.abs().amax(dim=1) if norm == "linf" else flat.norm(dim=1)


def project(moved: Tensor, x: Tensor, eps: float, norm: str) -> Tensor:
    """The nearest point of the ball around `x` within [0, 1]; for l2 a point of both that is near.

    Args:
        moved: the points (n, ...).
        x: centres of the balls (n, ...) in [0, 1].
        eps: radius.
        norm: ``linf`` or ``l2``.
    """
    delta = moved - x
    delta = delta.clamp_(-eps, eps) if norm == "linf" else delta * _shrink(size(delta, norm), eps, x)
    # x is in [0, 1]: clamping only shortens the perturbation, so it stays in the ball.
    return delta.add_(x).clamp_(0, 1)


def _shrink(length: Tensor, eps: float, like: Tensor) -> Tensor:
    return column((eps / length.clamp_min(1e-12)).clamp_max(1.0), like)


def direction(gradient: Tensor, norm: str) -> Tensor:
    """The steepest direction of unit norm: the sign for l-inf, the scaled gradient for l2; 0 where the gradient is."""
    if norm == "linf":
        return gradient.sign()
    # Divided by the largest entry first, a gradient of 1e-30 keeps its direction: its square would be 0 in float32.
    largest = column(gradient.flatten(1).abs().amax(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny), gradient)
    scaled = gradient / largest
    return scaled / column(size(scaled, norm).clamp_min(1e-12), gradient)


def random_in_ball(x: Tensor, eps: float, norm: str, generator: torch.Generator) -> Tensor:
    """A point drawn uniformly from the ball around each sample, cut to [0, 1]."""
    if norm == "linf":
        noise = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return x.add(noise.mul_(2 * eps).sub_(eps)).clamp_(0, 1)
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    radius = torch.rand(len(x), generator=generator, device=x.device, dtype=x.dtype) ** (1 / x[0].numel())
    noise = noise * column(eps * radius / size(noise, norm).clamp_min(1e-12), x)
    return project(x + noise, x, eps, norm)
