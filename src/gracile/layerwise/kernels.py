"""Gaussian kernel ridge regression with leave-one-out errors in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gracile.layerwise.ridge import candidates, dual_loo
from gracile.layerwise.statistics import Spectrum


def gaussian(z: Tensor, landmarks: Tensor, gamma: float) -> Tensor:
    """`exp(-gamma |z - w|^2)`, (b, m) from (b, d) and (m, d)."""
    return (-gamma * squared_distances(z, landmarks)).exp_()


def squared_distances(z: Tensor, w: Tensor) -> Tensor:
    """(b, m), not below zero."""
    return torch.addmm(w.square().sum(1), z, w.T, alpha=-2).add_(z.square().sum(1, keepdim=True)).clamp_(min=0)


def spectrum_of(z: Tensor, t: Tensor, gamma: float, w: Tensor | None) -> Spectrum:
    """Kernel ridge regression of t (samples, Q) on z (samples, d), in the eigenbasis of its kernel matrix, float64.

    With weights w (samples,) kernel and targets are those times the roots of both samples' weights.
    """
    kernel, targets = gaussian(z.double(), z.double(), gamma), t.double()
    if w is not None:
        root = w.double().sqrt()
        kernel, targets = kernel * root * root[:, None], targets * root[:, None]
    values, basis = torch.linalg.eigh(kernel)
    return Spectrum(values.clamp(min=0), basis, basis.T @ targets)


def kernel_error(z: Tensor, t: Tensor, gamma: float, w: Tensor | None = None) -> float:
    """The least leave-one-out squared error over ridge strengths, in sum over samples and targets."""
    return float(kernel_errors(z, t, gamma, w).sum())


def kernel_errors(z: Tensor, t: Tensor, gamma: float, w: Tensor | None = None) -> Tensor:
    """Each sample's part of `kernel_error` (samples,)."""
    return _least(spectrum_of(z, t, gamma, w), w)[0]


def best_kernel_fit(z: Tensor, t: Tensor, gammas: Sequence[float], w: Tensor | None = None) -> tuple[Tensor, float]:
    """Coefficients (samples, Q) of the kernel values at z, and the width, of the least leave-one-out error."""
    found = []
    for gamma in gammas:
        spectrum = spectrum_of(z, t, gamma, w)
        found.append((*_least(spectrum, w), gamma, spectrum))
    _, lam, gamma, spectrum = min(found, key=lambda one: float(one[0].sum()))
    alpha = spectrum.weights(lam)
    return alpha if w is None else alpha * w.double().sqrt()[:, None], gamma


def _least(spectrum: Spectrum, w: Tensor | None) -> tuple[Tensor, float]:
    """Leave-one-out squared errors (samples,) of least sum, and their ridge strength."""
    lams = candidates(spectrum, torch.float64)
    errors = dual_loo(spectrum, lams, w).square().sum(2)
    best = int(errors.sum(1).argmin())
    return errors[best], float(lams[best])
