"""The population risk of one ReLU filter over k patches without overlap, in closed form.

Network and teacher are ``1/k sum_i relu(w . x_i)`` with standard Gaussian patches ``x_i`` in R^d; the risk is the mean
squared difference [@brutzkus2017; @dinh2020, section 3.1.1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gracile.core.errors import InputError


def angle(w: Tensor, w_star: Tensor) -> Tensor:
    """The angle in [0, pi] between filters, by the half-angle formula, which keeps its digits at 0 and pi.

    Args:
        w: ``(..., d)``, not zero.
        w_star: ``(d,)``, not zero.

    Returns:
        ``(...)``, radians.
    """
    unit, star = w / w.norm(dim=-1, keepdim=True), w_star / w_star.norm()
    return 2 * torch.atan2((unit - star).norm(dim=-1), (unit + star).norm(dim=-1))


def risk_of(norm: Tensor, theta: Tensor, k: int, star: float = 1.0) -> Tensor:
    """The risk as a function of the two numbers it depends on.

    Args:
        norm: ``|w|``.
        theta: angle between w and w*.
        k: patches.
        star: ``|w*|``.
    """
    b = (k * k - k) / (2 * math.pi)
    # Norms as a square, and |w||w*|/2 - g by half-angles: no cancellation near w*.
    rest = 2 * math.pi * (theta / 2).sin().square() - (theta.sin() - theta * theta.cos())
    return ((b + k / 2) * (norm - star).square() + k / math.pi * norm * star * rest) / k**2


def population_risk(w: Tensor, w_star: Tensor, k: int) -> Tensor:
    """``E (1/k sum_i relu(w . x_i) - 1/k sum_i relu(w* . x_i))^2`` [@dinh2020, eq. 3.2].

    Args:
        w: filters, ``(..., d)``; zero is allowed.
        w_star: the teacher, ``(d,)``.
        k: patches, at least 1.

    Returns:
        ``(...)``, at least 0.

    Raises:
        InputError: k below 1, a zero teacher, or shapes that do not fit.

    >>> w_star = torch.tensor([1.0, 0.0], dtype=torch.float64)
    >>> population_risk(w_star, w_star, k=4).item()
    0.0
    """
    check_shapes(w, w_star, k)
    norm = w.norm(dim=-1)
    # At zero no angle exists and none matters.
    safe = torch.where((norm > 0)[..., None], w, w_star)
    return risk_of(norm, angle(safe, w_star), k, float(w_star.norm()))


def population_gradient(w: Tensor, w_star: Tensor, k: int) -> Tensor:
    """The gradient of `population_risk` in w [@dinh2020, eq. 3.16], ``(..., d)``.

    Raises:
        InputError: as `population_risk`; and at w = 0, where the risk has no gradient.
    """
    check_shapes(w, w_star, k)
    norm, star = w.norm(dim=-1, keepdim=True), float(w_star.norm())
    if bool((norm == 0).any()):
        raise InputError("The risk has no gradient at w = 0.", "Start from a filter that is not zero.")
    theta = angle(w, w_star)[..., None]
    square = (k * k - k) / math.pi
    along = k + square - (k / math.pi * theta.sin() + square) * star / norm
    return (along * w - k / math.pi * (math.pi - theta) * w_star) / k**2


@dataclass(frozen=True)
class Curvature:
    """The three eigenvalues of the risk's Hessian: along w, along the tangent towards w*, and across both, ``(...)`` each."""

    radial: Tensor
    towards: Tensor
    across: Tensor


def population_curvature(w: Tensor, w_star: Tensor, k: int) -> Curvature:
    """The Hessian's eigenvalues at w, in closed form.

    Differentiating eq. 3.16 gives ``2a/k^2`` along w, and on the tangent space ``2a/k^2`` less ``((k^2 - k) + k sin
    theta (1 + 1[towards])) |w*| / (pi k^2 |w|)``. So no eigenvalue exceeds ``2a/k^2`` anywhere.

    Raises:
        InputError: as `population_gradient`.
    """
    check_shapes(w, w_star, k)
    norm, theta = w.norm(dim=-1), angle(w, w_star)
    most = largest_curvature(k)
    ratio = float(w_star.norm()) / (math.pi * k**2 * norm)
    across = most - (k * k - k + k * theta.sin()) * ratio
    towards = most - (k * k - k + 2 * k * theta.sin()) * ratio
    return Curvature(torch.full_like(norm, most), towards, across)


def largest_curvature(k: int) -> float:
    """The largest curvature of the risk, ``2a/k^2 = 1/k + (1 - 1/k)/pi``, at most 1.

    The risk less ``a/k^2 |w|^2`` is concave on all of R^d, so that ``f(v) <= f(w) + grad f(w) . (v - w) + a/k^2 |v -
    w|^2`` without any restriction on w and v.
    """
    return 1 / k + (1 - 1 / k) / math.pi


@dataclass(frozen=True)
class CriticalPoints:
    """Where the risk has no slope [@dinh2020, lemma 4], ``(d,)`` each.

    Attributes:
        minimum: w*, the only one.
        maximum: 0, a local maximum without gradient; None for k = 1.
        saddle: the degenerate saddle opposite to w*; None for k = 1.
    """

    minimum: Tensor
    maximum: Tensor | None
    saddle: Tensor | None


def critical_points(w_star: Tensor, k: int) -> CriticalPoints:
    """The critical points of `population_risk`.

    Raises:
        InputError: k below 1, or a zero teacher.
    """
    check_shapes(w_star, w_star, k)
    if k == 1:
        return CriticalPoints(w_star.clone(), None, None)
    return CriticalPoints(w_star.clone(), torch.zeros_like(w_star), -saddle_norm(k) * w_star)


def saddle_norm(k: int) -> float:
    """``(k^2 - k) / (k^2 + (pi - 1) k)``, the saddle's norm for a unit teacher."""
    return (k - 1) / (k + math.pi - 1)


def check_shapes(w: Tensor, w_star: Tensor, k: int) -> None:
    """Refuse what the formulas are not defined for.

    Raises:
        InputError: k below 1, a zero teacher, or shapes that do not fit.
    """
    if k < 1:
        raise InputError(f"The network needs at least one patch, not k={k}.", "The theorems want k >= 2.")
    if w_star.ndim != 1 or w.shape[-1:] != w_star.shape:
        raise InputError(
            f"The filter's shape {tuple(w.shape)} does not end in the teacher's {tuple(w_star.shape)}.",
            "Give w_star as (d,) and w as (d,) or (starts, d).",
        )
    if not float(w_star.norm()) > 0:
        raise InputError("The teacher w* is zero.", "Give a teacher of norm 1.")
