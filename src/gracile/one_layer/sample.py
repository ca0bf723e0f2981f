"""The same risks and gradients over a finite sample of Gaussian patches."""

from __future__ import annotations

import torch
from torch import Tensor

from gracile.core.errors import InputError
from gracile.core.seeding import generator


def gaussian_patches(n: int, k: int, d: int, seed: int = 0, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw n inputs of k standard Gaussian patches, ``(n, k, d)``.

    Raises:
        InputError: n, k or d below 1.
    """
    if min(n, k, d) < 1:
        raise InputError(f"There is no sample of n={n}, k={k}, d={d}.", "All three must be at least 1.")
    return torch.randn(n, k, d, dtype=dtype, generator=generator(seed, "one-layer patches", n, k, d))


def sample_risk(w: Tensor, w_star: Tensor, x: Tensor) -> Tensor:
    """The mean over inputs of ``(1/k sum_i relu(w . x_i) - 1/k sum_i relu(w* . x_i))^2``.

    Args:
        w: filters, ``(starts, d)``.
        w_star: the teacher, ``(d,)``.
        x: inputs, ``(n, k, d)``.

    Returns:
        ``(starts,)``.
    """
    return _relu_difference(w, w_star, x)[0].square().mean(1)


def sample_gradient(w: Tensor, w_star: Tensor, x: Tensor) -> Tensor:
    """The gradient of `sample_risk` in w, ``(starts, d)``."""
    difference, active = _relu_difference(w, w_star, x)
    return 2 / x.shape[1] * _gathered(difference, active, x)


def sample_binary_risk(w: Tensor, w_star: Tensor, x: Tensor) -> Tensor:
    """The mean over inputs of ``(1' s(Zw) - 1' s(Zw*))^2``, ``(starts,)``; arguments as `sample_risk`."""
    return _step_difference(w, w_star, x)[0].square().mean(1)


def sample_coarse_gradient(w: Tensor, w_star: Tensor, x: Tensor) -> Tensor:
    """The mean over inputs of ``Z' s(Zw) (1' s(Zw) - 1' s(Zw*))``, ``(starts, d)``; arguments as `sample_risk`."""
    difference, active = _step_difference(w, w_star, x)
    return _gathered(difference, active, x)


def _relu_difference(w: Tensor, w_star: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs less the teacher's, ``(starts, n)``, and which patches are active, ``(starts, n, k)``."""
    response = torch.einsum("sd,nkd->snk", w, x)
    return response.relu().mean(2) - (x @ w_star).relu().mean(1), response > 0


def _step_difference(w: Tensor, w_star: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    active = torch.einsum("sd,nkd->snk", w, x) > 0
    return (active.sum(2) - (x @ w_star > 0).sum(1)).to(w), active


def _gathered(difference: Tensor, active: Tensor, x: Tensor) -> Tensor:
    """The mean over inputs of the difference times the sum of active patches."""
    return torch.einsum("snk,nkd->sd", difference[..., None] * active, x) / x.shape[0]
