"""Ridge regression whose strength may be chosen by leave-one-out in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gracile.core.errors import InputError
from gracile.layerwise.source import Features
from gracile.layerwise.statistics import Dual, Spectrum, Stream, gather

# Candidates, evenly spaced in the logarithm: 8 decades in float32 and 13 in float64; below lies nothing but rounding.
CANDIDATES = 29


@dataclass(frozen=True)
class Ridge:
    """A ridge solution.

    Attributes:
        weights: O (n, Q), float64.
        lam: the strength used.
        loo: the leave-one-out mean squared error of one target, None when `lam` was given.
    """

    weights: Tensor
    lam: float
    loo: float | None = None


def check_lam(lam: float | str) -> None:
    """Refuse what is neither "auto" nor a number from 0 up.

    Raises:
        InputError: otherwise.
    """
    if lam == "auto" or (isinstance(lam, int | float) and not isinstance(lam, bool) and 0 <= lam < float("inf")):
        return
    raise InputError(f"lam = {lam!r} is no regularisation strength.", 'Give a number from 0 up, or "auto".')


def ridge(stream: Stream, lam: float | str) -> Ridge:
    """Solve `min |T - Y O|^2 + lam |O|^2` over a stream.

    Args:
        stream: yields Y (samples, n) and T (samples, Q); passed over once, twice for ``lam="auto"``.
        lam: from 0 up, or "auto": the least leave-one-out squared error among candidates.

    Raises:
        InputError: the Gram matrix is singular at `lam`.
    """
    check_lam(lam)
    if isinstance(stream, Features) and stream.source.workers is not None:
        return _distributed(stream, lam)
    problem = gather(stream)
    if not isinstance(lam, str):
        return Ridge(problem.ridge(lam), lam)
    spectrum = problem.spectrum()
    if isinstance(problem, Dual):
        lams = candidates(spectrum, problem.features.dtype)
        errors = dual_loo(spectrum, lams).square().mean((1, 2))
    else:
        lams, errors = _primal_errors(spectrum, stream)
    best = int(errors.argmin())
    return Ridge(spectrum.weights(float(lams[best])), float(lams[best]), float(errors[best]))


def _distributed(features: Features, lam: float | str) -> Ridge:
    if isinstance(lam, str):
        raise InputError(
            'lam="auto" looks at the errors of all samples in one place, and here they lie with many workers.',
            "Give lam as a number, such as one found on a single worker's samples times the number of workers.",
        )
    return Ridge(features.problem().ridge(lam), lam)


def candidates(spectrum: Spectrum, dtype: torch.dtype) -> Tensor:
    """Strengths from the rounding of `dtype` up to the largest eigenvalue, evenly spaced in the logarithm."""
    largest = float(spectrum.values[-1]) or 1.0
    lowest = {torch.float64: -13.0}.get(dtype, -8.0)
    return largest * torch.logspace(lowest, 0, CANDIDATES, dtype=torch.float64, device=spectrum.values.device)


def dual_loo(spectrum: Spectrum, lams: Tensor) -> Tensor:
    """Leave-one-out residuals t_i - f_{-i}(x_i) of kernel ridge regression, (lams, samples, Q).

    With G = K + lam I the residual of sample i is [G^-1 T]_i / [G^-1]_ii.
    """
    shrink = 1 / (spectrum.values[:, None] + lams)
    diagonal = spectrum.basis.square() @ shrink
    alpha = torch.einsum("jr,rl,rq->ljq", spectrum.basis, shrink, spectrum.coefficients)
    return alpha / diagonal.T[:, :, None]


def leverages(features: Tensor, spectrum: Spectrum, lams: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions (samples, lams, Q) and leverages h_ii (samples, lams) of samples of the fit, primal form."""
    rotated = features @ spectrum.basis.to(features.dtype)
    shrink = 1 / (spectrum.values[:, None] + lams)
    scaled = (spectrum.coefficients[:, None, :] * shrink[:, :, None]).flatten(1).to(features.dtype)
    predictions = (rotated @ scaled).unflatten(1, (len(lams), -1))
    return predictions.double(), (rotated.square() @ shrink.to(features.dtype)).double()


def loo_residuals(targets: Tensor, predictions: Tensor, leverage: Tensor) -> Tensor:
    """(t_i - f(x_i)) / (1 - h_ii), (samples, lams, Q)."""
    return (targets[:, None, :] - predictions) / (1 - leverage).clamp(min=1e-9)[:, :, None]


def _primal_errors(spectrum: Spectrum, stream: Stream) -> tuple[Tensor, Tensor]:
    lams, total, count = None, torch.zeros((), device=spectrum.values.device), 0
    for features, targets in stream():
        if lams is None:
            lams = candidates(spectrum, features.dtype)
        residuals = loo_residuals(targets.double(), *leverages(features, spectrum, lams))
        total = total + residuals.square().sum((0, 2))
        count += targets.numel()
    assert lams is not None
    return lams, total / count
