"""Least squares in a norm ball: the workhorse of the layer-wise learners.

    minimise |T - Y O|_F^2  subject to  |O|_F <= eps

Source: [@chatterjee2019], the output matrix of a layer, there solved by 100 steps of ADMM.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from gracile.core.errors import DataError, InputError
from gracile.core.estimators import tensor_of
from gracile.layerwise.statistics import Dual, Spectrum, Statistics, gather

ROWS = 4096


class NormBall(NamedTuple):
    """A solution in the ball.

    Attributes:
        weights: O (n, Q), float64; predictions are ``Y @ weights``.
        lam: the multiplier of the constraint, 0 where the ball does not bind; NaN for ADMM, which does not find it.
        cost: |T - Y O|_F^2.
    """

    weights: Tensor
    lam: float
    cost: float


def norm_ball_least_squares(
    Y: Any, T: Any, eps: float, *, method: str = "exact", mu: float | None = None, steps: int = 100
) -> NormBall:
    """Minimise `|T - Y O|_F^2` subject to `|O|_F <= eps`.

    Args:
        Y: features (samples, n), array or tensor; solved in the dual when n > samples.
        T: targets (samples, Q), or (samples,) for one.
        eps: radius of the ball, above 0.
        method: "exact" (one eigendecomposition and a scalar root) or "admm".
        mu: ADMM's step; its penalty is 1 / mu. None balances the extreme eigenvalues, which costs finding them. With a
            bad one the result is far from the optimum, though never outside the ball.
        steps: of ADMM.

    Raises:
        InputError: `eps` or `mu` is not above 0, or no such method.
        DataError: shapes that do not fit, or NaN.

    >>> import torch
    >>> Y = torch.eye(2)
    >>> norm_ball_least_squares(Y, torch.tensor([[3.0], [4.0]]), eps=1.0).weights
    tensor([[0.6000],
            [0.8000]], dtype=torch.float64)
    """
    features, targets = _matrix(Y, "Y"), _matrix(T, "T")
    if len(features) != len(targets):
        raise DataError(
            f"Y has {len(features)} samples and T has {len(targets)}.", "Give one row of T for each row of Y."
        )
    pieces = [(y, t, None) for y, t in zip(features.split(ROWS), targets.split(ROWS), strict=True)]
    if method == "exact":
        return exact(gather(lambda: iter(pieces)), eps)
    if method == "admm":
        sums = Statistics(features.shape[1], targets.shape[1], features.device)
        for y, t, _ in pieces:
            sums.add(y, t)
        return admm(sums, eps, mu=mu, steps=steps)
    raise InputError(f"There is no method '{method}'.", "Choose 'exact' or 'admm'.")


def exact(problem: Statistics | Dual, eps: float) -> NormBall:
    """The exact solution from gathered samples; see `norm_ball_least_squares`."""
    _check_radius(eps)
    spectrum = problem.spectrum()
    lam = multiplier(spectrum, eps)
    weights = spectrum.weights(lam)
    norm = float(torch.linalg.vector_norm(weights))
    if norm > eps:
        # The root is found to the last few bits; what is left is pulled inside, so that the result is feasible without
        # "almost".
        weights = weights * (eps / norm)
    return NormBall(weights, lam, problem.cost(weights))


def multiplier(spectrum: Spectrum, eps: float) -> float:
    """The `lam` at which the ridge solution's norm is `eps`; 0 when the least-squares solution lies in the ball."""
    if spectrum.squared_norm(0.0) <= eps**2:
        return 0.0
    # |O(lam)| falls from above eps to 0, and 1/|O| is nearly linear in lam, which suits the secant steps of Brent's
    # method.
    secular = lambda lam: 1 / eps - 1 / math.sqrt(spectrum.squared_norm(lam))
    high = max(float(spectrum.values[-1]), 1e-300)
    while secular(high) > 0:
        high *= 8
    low = high
    while low > 1e-300 and secular(low) < 0:
        low /= 64
    if low <= 1e-300:
        return 0.0
    return cast(float, brentq(secular, low, high, xtol=1e-300, rtol=4 * np.finfo(float).eps, maxiter=500))


def admm(
    problem: Statistics,
    eps: float,
    *,
    mu: float | None = None,
    steps: int = 100,
    monitor: Callable[[int, Tensor], None] | None = None,
) -> NormBall:
    """The alternating direction method of multipliers on gathered samples.

    ``O <- (Y'T + (Z + L)/mu) (Y'Y + I/mu)^-1``, ``Z <- project(O - L)``, ``L <- L + Z - O``; returns Z, which lies in
    the ball, not O.

    Args:
        problem: the sums.
        eps: radius of the ball, above 0.
        mu: see `norm_ball_least_squares`.
        steps: how many.
        monitor: called with the step and Z.
    """
    _check_radius(eps)
    if mu is None:
        mu = balanced_mu(problem)
    if not mu > 0:
        raise InputError(f"mu = {mu} is not above 0.", "Leave it out, or give a positive number.")
    shifted = problem.gram.clone()
    shifted.diagonal().add_(1 / mu)
    factor = torch.linalg.cholesky(shifted)
    z = torch.zeros_like(problem.cross)
    scaled_dual = torch.zeros_like(z)
    for step in range(steps):
        o = torch.cholesky_solve(problem.cross + (z + scaled_dual) / mu, factor)
        z = project(o - scaled_dual, eps)
        scaled_dual = scaled_dual + z - o
        if monitor is not None:
            monitor(step, z)
    return NormBall(z, math.nan, problem.cost(z))


def balanced_mu(problem: Statistics) -> float:
    """The step whose penalty is the geometric mean of the extreme eigenvalues, the least from 1e-6 of the largest."""
    values = torch.linalg.eigvalsh(problem.gram)
    largest = float(values[-1]) or 1.0
    smallest = max(float(values[0]), 1e-6 * largest)
    return 1 / math.sqrt(largest * smallest)


def project(weights: Tensor, eps: float) -> Tensor:
    """The nearest matrix of Frobenius norm at most `eps`."""
    norm = float(torch.linalg.vector_norm(weights))
    return weights if norm <= eps else weights * (eps / norm)


def _check_radius(eps: float) -> None:
    if not eps > 0:
        raise InputError(f"eps = {eps} is not above 0.", "Give the radius of the ball that the weights must lie in.")


def _matrix(values: Any, name: str) -> Tensor:
    tensor = tensor_of(values)
    if tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.float()
    if name == "T" and tensor.ndim == 1:
        tensor = tensor[:, None]
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise DataError(f"{name} has the shape {tuple(tensor.shape)}.", "Give a matrix with one row per sample.")
    if not bool(torch.isfinite(tensor).all()):
        raise DataError(f"{name} contains NaN or infinity.", "Drop or fill those samples.")
    return tensor
