"""How inputs are scaled: each feature by its own deviation or all by one, whichever predicts unseen samples better."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gracile.core.errors import InputError
from gracile.layerwise.kernels import kernel_error
from gracile.layerwise.source import Scaling, Source
from gracile.layerwise.survey import Moments

SCALES = ("auto", "each", "all")
# Samples that choose; the choice is coarse, and its cost cubic in them.
FEW = 600
# Widths of the Gaussian kernel that judges, on rows of mean squared norm 1.
GAMMAS = (0.5, 2.0, 8.0)


def check_scale(scale: str | None) -> None:
    """Raises InputError where there is no such way."""
    if scale is not None and scale not in SCALES:
        raise InputError(f"There is no scale {scale!r}.", f"Choose None or one of: {', '.join(SCALES)}.")


def scaling_of(source: Source, inputs: Moments, scale: str | None) -> Source:
    """The source with its inputs scaled so that rows have a mean squared norm of 1.

    Args:
        source: not scaled.
        inputs: of the samples at hand.
        scale: "each", "all" or "auto".
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
    scaled = {
        name: replace(source, scaling=Scaling(mean.to(source.device), factor.to(source.device)))
        for name, factor in ways.items()
    }
    if scale != "auto":
        return scaled[str(scale)]
    if float(ways["each"].min()) == float(ways["each"].max()):
        return scaled["all"]
    return scaled[_chosen(source, mean, ways)]


def _chosen(source: Source, mean: Tensor, ways: dict[str, Tensor]) -> str:
    (x, t, w), _ = source.sample(FEW)
    errors = []
    for factor in ways.values():
        z = (x.double() - mean.to(x.device)) * factor.to(x.device)
        errors.append(min(kernel_error(z, t.double(), gamma, w) for gamma in GAMMAS))
    found = torch.tensor(errors, dtype=torch.float64)
    if source.workers is not None:
        found = source.workers.total(found)
    return list(ways)[int(found.argmin())]
