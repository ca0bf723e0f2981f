"""Sufficient statistics of least squares: what a stream of features is boiled down to, and what can be solved from it.

Rows are samples: features Y (samples, n), targets T (samples, Q), weights O (n, Q), predictions Y O.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gracile.core.errors import DataError, InputError
from gracile.layerwise.blas import upper_gram

Stream = Callable[[], Iterator[tuple[Tensor, Tensor, Tensor | None]]]
"""Called for each pass over the data; yields features (samples, n) and targets (samples, Q), both times the root of the
samples' weights, and the weights (samples,), None where all are 1."""


def weighted(features: Tensor, targets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Features (samples, n) and targets (samples, Q) as a `Stream` yields them."""
    if weights is None:
        return features, targets, None
    root = weights.sqrt()[:, None]
    return features * root, targets * root, weights


# Rows of the Gram matrix handled at a time, of which only what lies on and above the diagonal is touched.
PANEL = 256
# Samples summed in the features' own precision. Of 4096 in float32 the rounding already hides a ridge strength of 0.01
# under 6000 features.
PIECE = 1024


@dataclass(frozen=True)
class Spectrum:
    """A least-squares problem in the eigenbasis of its Gram matrix, where every `lam` costs one scaling.

    Attributes:
        values: eigenvalues s, ascending, not below zero (r,).
        basis: eigenvectors as columns: of Y'Y (n, n), or of YY' (samples, samples) in the dual.
        coefficients: the basis applied to Y'T, or to T in the dual (r, Q).
        lift: None, or Y in the dual, which carries solutions back to n features.
    """

    values: Tensor
    basis: Tensor
    coefficients: Tensor
    lift: Tensor | None = None

    def weights(self, lam: float) -> Tensor:
        """The ridge solution (n, Q); at ``lam = 0`` the one of least norm."""
        solution = self.basis @ (self.coefficients * self.inverse(lam)[:, None])
        return solution if self.lift is None else _lifted(self.lift, solution)

    def squared_norm(self, lam: float) -> float:
        """The squared Frobenius norm of `weights(lam)` without forming them."""
        energy = self.coefficients.square().sum(1)
        if self.lift is not None:
            energy = energy * self.values
        return float((energy * self.inverse(lam).square()).sum())

    def inverse(self, lam: float) -> Tensor:
        """1 / (s + lam) (r,); at ``lam = 0`` zero for values that are nothing but rounding."""
        if lam > 0:
            return 1 / (self.values + lam)
        floor = torch.finfo(self.values.dtype).eps * len(self.values) * self.values[-1]
        return torch.where(self.values > floor, 1 / self.values.clamp(min=torch.finfo(self.values.dtype).tiny), 0)


def _lifted(features: Tensor, alpha: Tensor) -> Tensor:
    """Y' alpha in float64, in blocks so that no float64 copy of all features is made."""
    result = torch.zeros(features.shape[1], alpha.shape[1], dtype=torch.float64, device=features.device)
    for start in range(0, len(features), 1024):
        result += features[start : start + 1024].double().T @ alpha[start : start + 1024]
    return result


class Statistics:
    """Gram matrix Y'Y, cross product Y'T, energy |T|^2 and count (sum of weights) of all samples added so far, float64.

    Its size depends on n and Q alone. Two of them add up, so that workers that saw different samples can be joined.

    Args:
        features: n.
        targets: Q.
        device: where the sums live.
    """

    def __init__(self, features: int, targets: int, device: torch.device | str = "cpu") -> None:
        self._gram = torch.zeros(features, features, dtype=torch.float64, device=device)
        self._mirrored = True
        self._product: Tensor | None = None
        self.cross = torch.zeros(features, targets, dtype=torch.float64, device=device)
        self.energy = 0.0
        self.count: float = 0
        self._spectrum: Spectrum | None = None
        self._factor: tuple[float, Tensor] | None = None

    @classmethod
    def of(cls, gram: Tensor, cross: Tensor, energy: float, count: float) -> Statistics:
        """Statistics from their parts: Y'Y (n, n), symmetric, Y'T (n, Q), |T|^2 and the number of samples."""
        made = cls(0, cross.shape[1], cross.device)
        made._gram, made.cross, made.energy, made.count = gram, cross, energy, count
        return made

    def add(self, features: Tensor, targets: Tensor, weights: Tensor | None = None) -> None:
        """Add samples as a `Stream` yields them: features (samples, n), targets (samples, Q), of one floating type.

        Products of at most `PIECE` samples are taken in the features' own precision and summed in float64, so rounding
        does not grow with the samples.
        """
        for first in range(0, len(features), PIECE):
            piece = features[first : first + PIECE]
            product = self._upper(piece)
            for start in range(0, len(product), PANEL):
                self._gram[start : start + PANEL, start:] += product[start : start + PANEL, start:]
            self.cross += piece.T @ targets[first : first + PIECE]
        self._mirrored, self._spectrum, self._factor = False, None, None
        self.energy += float(targets.double().square().sum())
        self.count += len(features) if weights is None else float(weights.double().sum())

    def _upper(self, features: Tensor) -> Tensor:
        """Y'Y (n, n) in the features' precision, of which on a CPU only what is on and above the diagonal is right."""
        if features.device.type != "cpu":
            return features.T @ features
        if self._product is None or self._product.dtype != features.dtype:
            self._product = torch.zeros_like(self._gram, dtype=features.dtype)
        upper_gram(features, self._product)
        return self._product

    def __add__(self, other: Statistics) -> Statistics:
        if self.cross.shape != other.cross.shape:
            raise InputError(
                f"Statistics of shape {tuple(self.cross.shape)} and {tuple(other.cross.shape)} cannot be added.",
                "Draw the features of all workers from one seed and one width.",
            )
        return Statistics.of(
            self.gram + other.gram, self.cross + other.cross, self.energy + other.energy, self.count + other.count
        )

    @property
    def gram(self) -> Tensor:
        """Y'Y, symmetric (n, n)."""
        if not self._mirrored:
            n = len(self._gram)
            for start in range(0, n, PANEL):
                stop = min(start + PANEL, n)
                block = self._gram[start:stop, start:stop]
                block.copy_(block.triu() + block.triu(1).T)
                self._gram[stop:, start:stop] = self._gram[start:stop, stop:].T
            self._mirrored, self._product = True, None
        return self._gram

    def leading(self, width: int) -> Statistics:
        """The statistics of the first `width` features alone."""
        gram = self.gram[:width, :width].contiguous()
        return Statistics.of(gram, self.cross[:width], self.energy, self.count)

    def scaled(self, factors: Tensor) -> Statistics:
        """The statistics of features multiplied by `factors` (n,)."""
        gram = self.gram * factors * factors[:, None]
        return Statistics.of(gram, self.cross * factors[:, None], self.energy, self.count)

    def cost(self, weights: Tensor) -> float:
        """|T - Y O|_F^2 for weights (n, Q), from the sums alone."""
        weights = weights.double()
        return max(0.0, self.energy + float((weights * (self.gram @ weights - 2 * self.cross)).sum()))

    def ridge(self, lam: float) -> Tensor:
        """The minimiser O (n, Q) of |T - Y O|^2 + lam |O|^2, by Cholesky.

        Raises:
            InputError: the Gram matrix is singular at this `lam`; the message says which one suffices.
        """
        factor = factorised(self.gram, lam)
        self._factor = (lam, factor)
        # Row by row: of two matrices that lie column by column MKL takes ten times as long to multiply a tall and a narrow one.
        return torch.cholesky_solve(self.cross, factor).contiguous()

    def spectrum(self) -> Spectrum:
        """Eigendecomposition of the Gram matrix."""
        if self._spectrum is None:
            values, basis = torch.linalg.eigh(self.gram)
            self._spectrum = Spectrum(values.clamp(min=0), basis, basis.T @ self.cross)
        return self._spectrum

    def leverage(self, features: Tensor, lam: float) -> Tensor:
        """The leverages (b,) h = y' (Y'Y + lam I)^-1 y of rows y, features (b, n)."""
        if self._factor is not None and self._factor[0] == lam:
            half = torch.linalg.solve_triangular(self._factor[1], features.double().T, upper=False)
            return half.square().sum(0)
        found = self.spectrum()
        return (features.double() @ found.basis).square() @ found.inverse(lam)


class Dual:
    """Fewer samples than features: the samples themselves, solved through the (samples, samples) matrix Y Y'.

    Args:
        features: Y (samples, n).
        targets: T (samples, Q).
        weights: of the samples, whose roots both have been multiplied by; None where all are 1.
    """

    def __init__(self, features: Tensor, targets: Tensor, weights: Tensor | None = None) -> None:
        self.features, self.targets = features, targets.double()
        self.weights = weights
        self.count = len(features) if weights is None else float(weights.double().sum())
        self._spectrum: Spectrum | None = None
        wide = features.double()
        self.gram = wide @ wide.T

    def cost(self, weights: Tensor) -> float:
        """|T - Y O|_F^2 for weights (n, Q)."""
        return float((self.targets - self.features.double() @ weights.double()).square().sum())

    def ridge(self, lam: float) -> Tensor:
        """The minimiser O (n, Q) of |T - Y O|^2 + lam |O|^2; raises as `Statistics.ridge` does."""
        factor = factorised(self.gram, lam)
        return _lifted(self.features, torch.cholesky_solve(self.targets, factor))

    def spectrum(self) -> Spectrum:
        """Eigendecomposition of Y Y'."""
        if self._spectrum is None:
            values, basis = torch.linalg.eigh(self.gram)
            self._spectrum = Spectrum(values.clamp(min=0), basis, basis.T @ self.targets, self.features)
        return self._spectrum

    def leverage(self, features: Tensor, lam: float) -> Tensor:
        """The leverages (b,) h = y' (Y'Y + lam I)^-1 y of rows y among the samples, features (b, n)."""
        found = self.spectrum()
        rotated = features.double() @ self.features.double().T @ found.basis
        return rotated.square() @ (found.inverse(lam) * found.inverse(0.0))


def factorised(gram: Tensor, lam: float) -> Tensor:
    """The Cholesky factor of `gram + lam I`.

    Raises:
        InputError: it is singular to working precision; the message names a `lam` that was tried and suffices.
    """
    factor = _factor(gram, lam)
    if factor is None:
        enough = 10.0 ** math.ceil(math.log10(max(1e-9 * float(gram.diagonal().mean()), 2 * lam, 1e-30)))
        while _factor(gram, enough) is None:
            enough *= 10
        raise singular(lam, enough)
    return factor


def _factor(gram: Tensor, lam: float) -> Tensor | None:
    shifted = gram.clone()
    shifted.diagonal().add_(lam)
    factor, info = torch.linalg.cholesky_ex(shifted)
    diagonal = factor.diagonal()
    # A rank-deficient matrix can pass by rounding: then the last pivots are nothing but rounding.
    if int(info) or float(diagonal.min() / diagonal.max()) ** 2 < 4 * torch.finfo(torch.float64).eps:
        return None
    return factor


def singular(lam: float, enough: float) -> InputError:
    """The error of a Gram matrix that cannot be inverted at `lam`."""
    return InputError(
        f"The Gram matrix of the features is singular to working precision at lam = {lam:g}: some features are "
        "constant zero, repeated, more numerous than the samples, or of very different sizes.",
        f'Set lam to {enough:.1g} or more, or lam="auto", or scale the features.',
    )


def gather(stream: Stream) -> Statistics | Dual:
    """One pass over a stream: `Dual` while samples are no more than features, `Statistics` otherwise.

    Memory stays of the order of n x n either way, whatever the number of samples.
    """
    held: list[tuple[Tensor, Tensor, Tensor | None]] = []
    rows = 0
    sums: Statistics | None = None
    for features, targets, weights in stream():
        if sums is None:
            held.append((features, targets, weights))
            rows += len(features)
            if rows <= features.shape[1]:
                continue
            sums = Statistics(features.shape[1], targets.shape[1], features.device)
            for earlier in held:
                sums.add(*earlier)
            held.clear()
        else:
            sums.add(features, targets, weights)
    if sums is not None:
        return sums
    w = [weights for _, _, weights in held if weights is not None]
    return Dual(
        torch.cat([part for part, _, _ in held]), torch.cat([part for _, part, _ in held]), torch.cat(w) if w else None
    )


def accumulate(stream: Stream) -> Statistics:
    """One pass over a stream, always in the primal.

    Raises:
        DataError: it holds no samples.
    """
    sums = None
    for features, targets, weights in stream():
        if sums is None:
            sums = Statistics(features.shape[1], targets.shape[1], features.device)
        sums.add(features, targets, weights)
    if sums is None:
        raise DataError("There are no samples to learn from.", "Give every worker at least one.")
    return sums
