"""Kernel ridge regression of samples by fits that did not see them: exact on few, by Nystroem's method on many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gracile.core.errors import DataError
from gracile.core.row_keys import keys_of
from gracile.layerwise.kernels import gaussian, kernel_error, spectrum_of
from gracile.layerwise.ridge import candidates, dual_loo, left_out, leverages
from gracile.layerwise.source import Source
from gracile.layerwise.statistics import Spectrum, Statistics, Stream, singular, weighted
from gracile.layerwise.survey import Moments

# Widths of the Gaussian tried by gamma="auto", in units of 1 / (mean squared distance) ...
GAMMAS = (0.03125, 0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
# ... on so many samples: the choice is coarse, and its cost is cubic in them.
FEW = 600
# Parts the samples are divided into, each predicted by a fit on the others.
FOLDS = 5


@dataclass(frozen=True)
class KernelFit:
    """One layer's kernel ridge regression.

    Attributes:
        coefficients: (m, Q) on the kernel values at the landmarks.
        lam: strength used, chosen by leave-one-out.
        held_out: predictions of all samples by fits on the other folds, in the stream's order (samples, Q).
        error: their mean squared error.
    """

    coefficients: Tensor
    lam: float
    held_out: Tensor
    error: float


def kernel_ridge(
    stream: Stream,
    folds: Tensor,
    landmarks: Tensor,
    gamma: float,
    lam: float | str,
    total: Callable[[Tensor], Tensor] = lambda value: value,
) -> KernelFit:
    """Kernel ridge regression by Nystroem's method, with held-out predictions of every sample.

    Args:
        stream: yields z (b, d), targets (b, Q) and weights (b,) or None; passed over two or three times.
        folds: of each sample (samples,), from 0 to `FOLDS` - 1.
        landmarks: (m, d).
        gamma: of the Gaussian.
        lam: from 0 up, or "auto".
        total: the sum over all processes of what each has of its own samples, where others hold others; see
            `gracile.layerwise.consensus.Consensus.total`. Held-out predictions are of a process's own.

    Raises:
        InputError: the kernel matrix is singular at `lam`.
    """
    kernel = gaussian(landmarks.double(), landmarks.double(), gamma)
    # Features phi with phi(z) . phi(w) = k(z, w) on the landmarks, without the directions below the kernel's rounding.
    values, basis = torch.linalg.eigh(kernel)
    keep = values > values[-1] * len(values) * torch.finfo(landmarks.dtype).eps
    whiten = basis[:, keep] * values[keep].rsqrt()
    small = whiten.to(landmarks.dtype)

    def features() -> Iterator[tuple[Tensor, Tensor, Tensor | None, Tensor]]:
        start = 0
        for z, t, w in stream():
            yield *weighted(gaussian(z, landmarks, gamma) @ small, t, w), folds[start : start + len(z)]
            start += len(z)

    parts = [_summed(part, total) for part in _sums_of_folds(features)]
    whole = sum(parts[1:], parts[0])
    spectrum = whole.spectrum()
    lams = _strengths(spectrum, lam, landmarks.dtype)
    chosen = float(lams[_least_error(spectrum, features, lams, total)])
    without = torch.stack([_solution(whole.gram - part.gram, whole.cross - part.cross, chosen) for part in parts])
    held_out, squares, weight = [], 0.0, 0.0
    for y, t, w, fold in features():
        residuals = t.double() - _by_fold(y.double(), without, fold)
        root = 1.0 if w is None else w.double().sqrt()[:, None]
        held_out.append((t.double() - residuals) / root)
        squares += float(residuals.square().sum())
        weight += float(len(t) if w is None else w.sum()) * t.shape[1]
    coefficients = (whiten @ spectrum.weights(chosen)).to(landmarks.dtype)
    squares, weight = total(torch.tensor([squares, weight], dtype=torch.float64)).tolist()
    return KernelFit(coefficients, chosen, torch.cat(held_out).to(landmarks.dtype), squares / weight)


def _sums_of_folds(features: Callable[[], Iterator[tuple[Tensor, Tensor, Tensor | None, Tensor]]]) -> list[Statistics]:
    parts: list[Statistics] = []
    for y, t, w, fold in features():
        parts = parts or [Statistics(y.shape[1], t.shape[1], y.device) for _ in range(FOLDS)]
        for number, part in enumerate(parts):
            rows = fold == number
            part.add(y[rows], t[rows], None if w is None else w[rows])
    return parts


def _summed(part: Statistics, total: Callable[[Tensor], Tensor]) -> Statistics:
    """Sums over this process's samples as those over all."""
    energy, count = total(torch.tensor([part.energy, part.count], dtype=torch.float64)).tolist()
    return Statistics.of(total(part.gram), total(part.cross), energy, count)


def _solution(gram: Tensor, cross: Tensor, lam: float) -> Tensor:
    """(gram + lam I)^-1 cross, of a matrix that differences of sums may have left slightly indefinite."""
    shifted = gram.clone()
    shifted.diagonal().add_(lam)
    factor, info = torch.linalg.cholesky_ex(shifted)
    if not int(info):
        return torch.cholesky_solve(cross, factor)
    values, basis = torch.linalg.eigh(gram)
    return basis @ ((basis.T @ cross) / (values.clamp(min=0) + lam)[:, None])


def _by_fold(y: Tensor, weights: Tensor, fold: Tensor) -> Tensor:
    """Rows y (b, n) times the weights (FOLDS, n, Q) of their folds (b, Q)."""
    found = y.new_empty(len(y), weights.shape[2])
    for number, own in enumerate(weights):
        rows = fold == number
        found[rows] = y[rows] @ own
    return found


def exact_kernel_ridge(
    z: Tensor,
    t: Tensor,
    folds: Tensor,
    gamma: float,
    lam: float | str,
    w: Tensor | None = None,
    copies: Tensor | None = None,
) -> KernelFit:
    """Kernel ridge regression on every sample: `kernel_ridge` of z (samples, d), t (samples, Q), w (samples,) at once.

    Args:
        z: see above.
        t: see above.
        folds: of each sample (samples,); copies are in one.
        gamma: of the kernel.
        lam: ridge strength, or "auto".
        w: see above.
        copies: a number for each sample (samples,), the same for copies. They are solved for as one sample of their weight, since a
            kernel matrix with equal rows is singular but for lam.
    """
    if copies is not None and len(copies.unique()) < len(copies):
        return _without_copies(z, t, folds, gamma, lam, w, copies)
    spectrum = spectrum_of(z, t, gamma, w)
    lams = _strengths(spectrum, lam, z.dtype)
    best = int(dual_loo(spectrum, lams, w).square().sum((1, 2)).argmin()) if len(lams) > 1 else 0
    chosen = float(lams[best])
    inverse = (spectrum.basis * spectrum.inverse(chosen)) @ spectrum.basis.T
    alpha = spectrum.weights(chosen)
    root = torch.ones_like(alpha[:, :1]) if w is None else w.double().sqrt()[:, None]
    residuals = torch.empty_like(alpha)
    for number in range(FOLDS):
        rows = (folds == number).nonzero()[:, 0]
        # What a fit without these rows misses by; of a single one this is leave-one-out.
        residuals[rows] = torch.linalg.solve(inverse[rows][:, rows], alpha[rows])
    weight = len(t) if w is None else float(w.sum())
    return KernelFit(
        (root * alpha).to(z.dtype),
        chosen,
        (t.double() - residuals / root).to(z.dtype),
        float(residuals.square().sum()) / (weight * t.shape[1]),
    )


def _without_copies(
    z: Tensor, t: Tensor, folds: Tensor, gamma: float, lam: float | str, w: Tensor | None, copies: Tensor
) -> KernelFit:
    """`exact_kernel_ridge` of the mean target of each set of copies; the first of them has the coefficient."""
    found, which = copies.unique(return_inverse=True)
    each = torch.ones(len(t), dtype=torch.float64, device=t.device) if w is None else w.double()
    total = torch.zeros(len(found), dtype=torch.float64, device=t.device).index_add_(0, which, each)
    means = torch.zeros(len(found), t.shape[1], dtype=torch.float64, device=t.device)
    means = means.index_add_(0, which, each[:, None] * t.double()) / total[:, None]
    first = torch.full((len(found),), len(t), device=t.device)
    first = first.scatter_reduce(0, which, torch.arange(len(t), device=t.device), "amin")
    fit = exact_kernel_ridge(z[first], means.to(t.dtype), folds[first], gamma, lam, total.to(z.dtype))
    coefficients = torch.zeros_like(t, dtype=z.dtype)
    coefficients[first] = fit.coefficients
    held_out = fit.held_out[which]
    error = float((each[:, None] * (t.double() - held_out.double()).square()).sum() / (each.sum() * t.shape[1]))
    return KernelFit(coefficients, fit.lam, held_out, error)


def _strengths(spectrum: Spectrum, lam: float | str, dtype: torch.dtype) -> Tensor:
    if isinstance(lam, str):
        return candidates(spectrum, dtype)
    if lam <= 1e-14 * float(spectrum.values[-1]):
        raise singular(lam, 1e-9 * float(spectrum.values[-1]))
    return torch.tensor([float(lam)], dtype=torch.float64, device=spectrum.values.device)


def _least_error(
    spectrum: Spectrum,
    features: Callable[[], Iterator[tuple[Tensor, Tensor, Tensor | None, Tensor]]],
    lams: Tensor,
    total: Callable[[Tensor], Tensor],
) -> int:
    """Which of `lams` has the least leave-one-out error; one pass."""
    if len(lams) == 1:
        return 0
    errors = torch.zeros(len(lams), dtype=torch.float64, device=lams.device)
    for y, t, w, _ in features():
        predictions, leverage = leverages(y, spectrum, lams)
        errors += left_out(t.double()[:, None, :] - predictions, leverage, w).square().sum((0, 2))
    return int(total(errors).argmin())


def choose_gamma(z: Tensor, t: Tensor, w: Tensor | None = None) -> float:
    """The width with the least leave-one-out error on a few samples, `lam` free in each.

    Raises:
        DataError: all the samples are the same.
    """
    moments = Moments()
    moments.add(z.double(), None if w is None else w.double())
    # The mean squared distance of two samples is twice their variance.
    unit = 2 * float(moments.variance().sum())
    if not unit > 0:
        raise DataError("All samples looked at to choose gamma are the same.", "Shuffle the data, or give gamma.")
    return min(GAMMAS, key=lambda factor: kernel_error(z, t, factor / unit, w)) / unit


def folds_of(source: Source) -> tuple[Tensor, Tensor]:
    """A fold for each sample (samples,), by what its inputs are, and a number that copies share: they are held out together."""
    keys = np.concatenate([keys_of(x) for x, _, _ in source.batches()])
    folds = ((keys >> np.uint64(32)) % np.uint64(FOLDS)).astype(np.int64)
    return torch.from_numpy(folds).to(source.device), torch.from_numpy(keys.view(np.int64)).to(source.device)
