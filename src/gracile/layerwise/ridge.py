"""Ridge regression whose strength may be chosen by leave-one-out in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gracile.core.errors import InputError
from gracile.core.estimators import is_number
from gracile.layerwise.shared import Shared
from gracile.layerwise.source import Features
from gracile.layerwise.statistics import Dual, Spectrum, Statistics, Stream, gather

# Candidates, evenly spaced in the logarithm: 8 decades in float32 and 13 in float64; below lies nothing but rounding.
CANDIDATES = 29
# Samples left out to choose among them, evenly spaced: with more, looking at them takes longer than learning from them.
ENOUGH = 20_000


@dataclass(frozen=True)
class Ridge:
    """A ridge solution.

    Attributes:
        weights: O (n, Q), float64.
        lam: the strength used.
        problem: what was solved.
        loo: the leave-one-out mean squared error of one target, None when `lam` was given.
    """

    weights: Tensor
    lam: float
    problem: Statistics | Dual | Shared
    loo: float | None = None


def check_lam(lam: float | str) -> None:
    """Refuse what is neither "auto" nor a number from 0 up.

    Raises:
        InputError: otherwise.
    """
    if (isinstance(lam, str) and lam == "auto") or (is_number(lam) and float(lam) >= 0):
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
        return Ridge(problem.ridge(float(lam)), float(lam), problem)
    spectrum = problem.spectrum()
    if isinstance(problem, Dual):
        lams = candidates(spectrum, problem.features.dtype)
        errors = dual_loo(spectrum, lams, problem.weights).square().sum((1, 2))
        errors /= problem.targets.shape[1] * (problem.count if problem.weights is None else problem.weights.sum())
    else:
        rows = stream.source.rows if isinstance(stream, Features) else 0
        lams, errors = _primal_errors(spectrum, stream, rows)
    best = int(errors.argmin())
    return Ridge(spectrum.weights(float(lams[best])), float(lams[best]), problem, float(errors[best]))


def _distributed(features: Features, lam: float | str) -> Ridge:
    if isinstance(lam, str):
        raise InputError(
            'lam="auto" looks at the errors of all samples in one place, and here they lie with many workers.',
            "Give lam as a number, such as one found on a single worker's samples times the number of workers.",
        )
    problem = features.problem()
    return Ridge(problem.ridge(float(lam)), float(lam), problem)


def candidates(spectrum: Spectrum, dtype: torch.dtype) -> Tensor:
    """Strengths from the rounding of `dtype` up to the largest eigenvalue, evenly spaced in the logarithm."""
    largest = float(spectrum.values[-1]) or 1.0
    lowest = {torch.float64: -13.0}.get(dtype, -8.0)
    return largest * torch.logspace(lowest, 0, CANDIDATES, dtype=torch.float64, device=spectrum.values.device)


def dual_loo(spectrum: Spectrum, lams: Tensor, weights: Tensor | None = None) -> Tensor:
    """Leave-one-out residuals t_i - f_{-i}(x_i) of kernel ridge regression, (lams, samples, Q).

    With G = K + lam I the residual of sample i is [G^-1 T]_i / [G^-1]_ii. Those of weighted samples come times the root
    of their weights; see `left_out` for what is left out.
    """
    shrink = 1 / (spectrum.values[:, None] + lams)
    diagonal = (spectrum.basis.square() @ shrink).T[:, :, None]
    alpha = torch.einsum("jr,rl,rq->ljq", spectrum.basis, shrink, spectrum.coefficients)
    if weights is None:
        return alpha / diagonal
    lams, share = lams[:, None, None], 1 / weights.double().clamp(min=1)[None, :, None]
    # 1 - lam [G^-1]_ii is the leverage, and lam G^-1 T the residuals of the fit.
    return lams * alpha / (1 - share * (1 - lams * diagonal))


def left_out(residuals: Tensor, leverage: Tensor, weights: Tensor | None) -> Tensor:
    """Residuals (samples, ..., Q) of a fit as those of fits without the sample, (t_i - f(x_i)) / (1 - h_ii).

    A sample of weight 1 or less is left out; of a heavier one a weight of 1 is, as if it were that many samples: so a
    weight of 3 and three copies give the same.

    Args:
        residuals: of weighted samples times the root of their weights.
        leverage: h_ii of the rows as they were weighted (samples, ...).
        weights: (samples,).
    """
    if weights is not None:
        share = 1 / weights.double().clamp(min=1)
        leverage = leverage * share.reshape(-1, *[1] * (leverage.ndim - 1))
    return residuals / (1 - leverage).clamp(min=1e-9)[..., None]


def leverages(features: Tensor, spectrum: Spectrum, lams: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions (samples, lams, Q) and leverages h_ii (samples, lams) of samples of the fit, primal form."""
    rotated = features @ spectrum.basis.to(features.dtype)
    shrink = 1 / (spectrum.values[:, None] + lams)
    scaled = (spectrum.coefficients[:, None, :] * shrink[:, :, None]).flatten(1).to(features.dtype)
    predictions = (rotated @ scaled).unflatten(1, (len(lams), -1))
    return predictions.double(), (rotated.square() @ shrink.to(features.dtype)).double()


def _primal_errors(spectrum: Spectrum, stream: Stream, rows: int) -> tuple[Tensor, Tensor]:
    lams, total, count, start = None, torch.zeros((), device=spectrum.values.device), 0.0, 0
    step = max(1, rows // ENOUGH)
    for features, targets, weights in stream():
        if lams is None:
            lams = candidates(spectrum, features.dtype)
        if step > 1:
            some = slice(-start % step, None, step)
            start += len(features)
            features, targets = features[some], targets[some]
            weights = None if weights is None else weights[some]
        predictions, leverage = leverages(features, spectrum, lams)
        residuals = left_out(targets.double()[:, None, :] - predictions, leverage, weights)
        total = total + residuals.square().sum((0, 2))
        count += targets.shape[1] * float(len(targets) if weights is None else weights.sum())
    assert lams is not None
    return lams, total / count


def generalised(sums: Statistics) -> tuple[Tensor, float, float]:
    """The ridge solution of least generalised cross-validation error, from the sums alone, without another pass.

    Source: G. H. Golub, M. Heath, G. Wahba, "Generalized Cross-Validation as a Method for Choosing a Good Ridge
    Parameter" (1979).

    Returns:
        The weights (n, Q), their ridge strength, and the error, N |T - Y O|^2 / (N - df)^2 of all targets together.
    """
    spectrum = sums.spectrum()
    lams = candidates(spectrum, torch.float32)
    s, energy = spectrum.values[:, None], spectrum.coefficients.square().sum(1)[:, None]
    # Below the floor costs are rounding, and the strongest ridge that reaches it is as good as any.
    costs = (sums.energy - (energy * (s + 2 * lams) / (s + lams).square()).sum(0)).clamp(min=1e-10 * sums.energy)
    free = (sums.count - (s / (s + lams)).sum(0)).clamp(min=1e-9 * sums.count)
    errors = sums.count * costs / free.square()
    best = int(errors.argmin())
    return spectrum.weights(float(lams[best])), float(lams[best]), float(errors[best])
