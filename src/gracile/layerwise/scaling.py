"""How inputs are scaled: each feature by its own deviation, all by one, or each by how much the targets change along it.

Random layers and Gaussian kernels draw on all inputs alike, so features that say nothing are noise to them. "relevance"
weighs each by the root mean square of a kernel ridge regression's derivative along it, found anew on inputs so weighted
a few times: the diagonal of the average gradient outer product.

Source: [@radhakrishnan2024], recursive feature machines with a diagonal matrix.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gracile.core.errors import InputError
from gracile.core.row_keys import keys_of
from gracile.layerwise.consensus import Consensus
from gracile.layerwise.kernels import best_kernel_fit, gaussian, kernel_errors
from gracile.layerwise.source import Chunk, Scaling, Source
from gracile.layerwise.survey import Moments

SCALES = ("auto", "each", "all", "relevance")
# Samples that choose, and as many that find relevances; the choice is coarse, and its cost cubic in them.
FEW = 600
# Numbers they may hold, so that very wide inputs do not fill the memory; 100 samples they are at least.
ROOM = 4_000_000
# Widths of the Gaussian kernel that judges, on rows of mean squared norm 1.
GAMMAS = (0.5, 2.0, 8.0)
# Times relevances are found anew, and the least of them: a feature that matters less may do so by chance, and a lossless
# layer has to give it back.
ROUNDS, LEAST = 3, 0.03
# Standard errors by which relevance has to predict better to be taken.
SURE = 2.0


def check_scale(scale: str | None) -> None:
    """Raises InputError where there is no such way."""
    if scale is not None and scale not in SCALES:
        raise InputError(f"There is no scale {scale!r}.", f"Choose None or one of: {', '.join(SCALES)}.")


def scaling_of(source: Source, inputs: Moments, scale: str | None) -> Source:
    """The source with its inputs scaled so that rows have a mean squared norm of 1.

    Args:
        source: not scaled.
        inputs: of the samples at hand.
        scale: one of `SCALES`.
    """
    assert inputs.mean is not None
    mean, variance = inputs.mean, inputs.variance()
    if source.workers is not None:
        own = mean.numpy(), variance.numpy()
        found = source.workers.moments(inputs.weight, *own)  # pyright: ignore[reportArgumentType]
        mean, variance = map(torch.from_numpy, found)
    # What varies by rounding alone is constant.
    variance = torch.where(variance > 1e-24 * mean.square(), variance, 0.0)
    one = torch.full_like(variance, float(variance.sum()) ** -0.5 if variance.sum() > 0 else 1.0)
    # A constant feature is scaled as all are, so that the layer keeps it and its later values do not explode.
    ways = {"each": torch.where(variance > 0, (variance * int((variance > 0).sum())).rsqrt(), one), "all": one}
    if scale == "auto" and source.features == 1:
        found = "all"
    elif scale in ("auto", "relevance"):
        ways, found = _weighed(source, mean, variance, ways, scale)
    else:
        found = str(scale)
    return replace(source, scaling=Scaling(mean.to(source.device), ways[found].to(source.device)))


def _weighed(
    source: Source, mean: Tensor, variance: Tensor, ways: dict[str, Tensor], scale: str
) -> tuple[dict[str, Tensor], str]:
    """The ways with relevance among them, and the one asked for, or that predicts samples best that found no relevance."""
    chunk, _ = source.sample(2 * min(FEW, max(100, ROOM // source.features)))
    # By what the inputs are: copies of a sample, and samples of a weight, fall on the same side.
    first = torch.from_numpy((keys_of(chunk.x) >> np.uint64(40)) % np.uint64(2) == 0).to(chunk.x.device)
    if min(int(first.sum()), int((~first).sum())) < 2:
        first = torch.ones_like(first)
    finding, judging = _part(chunk, first), _part(chunk, ~first if not first.all() else first)
    around = lambda x, factor: (x.double() - mean.to(x.device)) * factor.to(x.device)
    relevance = relevances(finding._replace(x=around(finding.x, ways["each"])), source.workers)
    factor = ways["each"] * relevance.to(mean.device)
    norm = (variance * factor.square()).sum().sqrt()
    ways = {**ways, "relevance": factor / norm if norm > 0 else ways["each"]}
    if scale == "relevance":
        return ways, scale
    errors = torch.stack([_least_errors(judging._replace(x=around(judging.x, one))) for one in ways.values()])
    # Relevance follows a few hundred samples, and has to be better beyond what chance would make of as many.
    ahead = errors[:2] - errors[2]
    squares = ahead.square() if judging.w is None else ahead.square() / judging.w.double()
    sums = torch.cat([errors.sum(1), ahead.sum(1), squares.sum(1)])
    if source.workers is not None:
        sums = source.workers.total(sums)
    found = int(sums[:2].argmin())
    return ways, "relevance" if sums[3 + found] > SURE * sums[5 + found].sqrt() else list(ways)[found]


def _least_errors(chunk: Chunk) -> Tensor:
    """Left-out squared errors of each sample (b,), by the kernel's width of least sum."""
    errors = [kernel_errors(chunk.x, chunk.t.double(), gamma, chunk.w) for gamma in GAMMAS]
    return min(errors, key=lambda one: float(one.sum()))


def _part(chunk: Chunk, rows: Tensor) -> Chunk:
    return Chunk(chunk.x[rows], chunk.t[rows], None if chunk.w is None else chunk.w[rows])


def relevances(chunk: Chunk, workers: Consensus | None = None) -> Tensor:
    """How much each feature matters to the targets, as a factor of it (P,) from `LEAST` to 1.

    Args:
        chunk: samples, x (b, P) in float64 and of one scale in all features, and of mean squared norm 1.
        workers: whose mean squared derivatives are added up.
    """
    x, t, w = chunk.x, chunk.t.double(), chunk.w
    factor = torch.ones(x.shape[1], dtype=torch.float64, device=x.device)
    gammas = GAMMAS
    for _ in range(ROUNDS):
        z = x * factor
        # A process whose samples are all the same has nothing to say, and all processes take the same sums.
        norm = np.average(z.square().sum(1).cpu(), weights=None if w is None else w.cpu())
        z = z / max(norm, torch.finfo(z.dtype).tiny) ** 0.5
        alpha, gamma = best_kernel_fit(z, t, gammas, w)
        # The width is chosen once: inputs keep their mean squared norm, and the choice is coarse.
        gammas = (gamma,)
        squares = _squared_derivatives(z, alpha, gamma, w)
        if workers is not None:
            squares = workers.total(squares)
        # The derivative along x is that along z times the factor, and its root mean square is the new factor.
        factor = squares.sqrt() * factor
        factor = factor / factor.max() if factor.max() > 0 else torch.ones_like(factor)
    return factor.clamp(min=LEAST)


def _squared_derivatives(z: Tensor, alpha: Tensor, gamma: float, w: Tensor | None) -> Tensor:
    """Sum over samples and targets of the squared derivative along each feature (P,) of `k(z, z_i) alpha_i`."""
    kernel = gaussian(z, z, gamma)
    total = torch.zeros(z.shape[1], dtype=torch.float64, device=z.device)
    for column in alpha.T:
        # d/dz exp(-gamma |z - z_i|^2) = -2 gamma (z - z_i) k
        slope = 2 * gamma * (kernel @ (z * column[:, None]) - z * (kernel @ column)[:, None])
        total += slope.square().sum(0) if w is None else w.double() @ slope.square()
    return total
