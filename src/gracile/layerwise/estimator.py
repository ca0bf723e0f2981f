"""What the scikit-learn estimators of this room share: checking, streaming, scaling.

A learner is a class with a constructor and `_learn(source) -> Learned`, whose network maps inputs (b, P) to outputs (b,
Q).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from gracile.core.devices import device_named
from gracile.core.errors import DataError
from gracile.core.estimators import (
    NetworkEstimator,
    Restorable,
    whole,
)
from gracile.core.sample_weights import check_weights, present
from gracile.layerwise.consensus import Consensus
from gracile.layerwise.flow import Chain
from gracile.layerwise.ridge import check_lam, left_out
from gracile.layerwise.scaling import check_scale, scaling_of
from gracile.layerwise.shared import Shared
from gracile.layerwise.source import Batches, Chunk, Source, dtype_of
from gracile.layerwise.statistics import Dual, Statistics, weighted
from gracile.layerwise.survey import Moments, Survey

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Learned:
    """What a learner found.

    Attributes:
        network: inputs (b, P) to outputs (b, Q).
        variance: the mean squared error of one target on the training samples.
        held_out: samples and their places in the stream to outputs as of a network that did not learn from them (b, Q);
            None where the samples lie with many workers.
    """

    network: nn.Module
    variance: float
    held_out: Callable[[Chunk, Tensor], Tensor] | None = None


def solved(
    network: nn.Module,
    features: Callable[[Tensor], Tensor],
    problem: Statistics | Dual | Shared,
    weights: Tensor,
    lam: float,
) -> Learned:
    """A network whose last layer is a ridge regression, left out one sample at a time.

    Args:
        network: the whole network.
        features: what its last layer reads (b, n) of scaled inputs (b, P).
        problem: of these features and the targets.
        weights: the last layer (n, Q), the ridge solution at `lam`.
        lam: the ridge, or the multiplier of a ball.
    """
    variance = problem.cost(weights) / (problem.count * weights.shape[1])
    if isinstance(problem, Shared):
        return Learned(network, variance)

    def held_out(chunk: Chunk, places: Tensor) -> Tensor:
        y, t, w = weighted(features(chunk.x), chunk.t, chunk.w)
        residuals = left_out(t.double() - y.double() @ weights, problem.leverage(y, lam), w)
        return chunk.t.double() - (residuals if w is None else residuals / w.double().sqrt()[:, None])

    return Learned(network, variance, held_out)


class Learner(NetworkEstimator):
    """The shared half of every estimator; see the classes for their own parameters.

    Parameters that all of them have:
        lam: regularisation strength from 0 up, or "auto": chosen by leave-one-out in closed form.
        scale: how inputs are brought to mean 0 and rows of mean squared norm 1, "each" feature by its own deviation,
            "all" by one, as suits pixels, "relevance" each by how much the targets change along it, as suits tables
            in which some features say little, "auto" by what predicts 600 left-out samples best, or None.
        seed: of the random weights.
        batch_size: samples worked on at a time; results do not depend on it beyond rounding.
        device: "cpu" or "cuda".
        dtype: "float32", "float64" or "auto", of the features: float64 up to 2000 samples, float32 beyond. Sums over
            samples are float64 either way.

    Attributes:
        net_: the fitted network, a torch module from inputs (b, P) to outputs (b, Q).
    """

    lam: float | str
    scale: str | None
    seed: int
    device: str
    dtype: str

    network_type: ClassVar[type[Restorable]] = Chain
    """Says how the network comes back from a file."""
    ordered: ClassVar[bool] = False
    """Whether a stream has to give its samples in the same order at every pass."""

    @abstractmethod
    def _learn(self, source: Source) -> Learned:
        """Fit the network to a stream and set what else the class promises."""

    def _restored(self, fitted: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
        return self.network_type.restored(tensors)

    def _checked(self, X: Any, y: Any, sample_weight: Any, **options: Any) -> tuple[Any, np.ndarray, np.ndarray | None]:
        self._check_parameters()
        X, y = self._valid(X, y, ensure_min_samples=2, **options)
        if sample_weight is None:
            return X, y, None
        weights = check_weights(sample_weight, len(y))
        # A sample of no weight is no sample: neither of the spread of inputs nor of a kernel's landmarks.
        there = present(weights)
        return (X, y, weights) if there.all() else (X[there], y[there], weights[there])

    def _check_parameters(self) -> None:
        check_lam(self.lam)
        check_scale(self.scale)
        whole("batch_size", self.batch_size)
        device_named(self.device)
        dtype_of(self.dtype, 0)

    def _survey(self, batches: Batches, see: Callable[[Any, np.ndarray | None], None] | None = None) -> Survey:
        """One pass: how many samples there are, and how they are spread."""
        survey = Survey(inputs=None if self.scale is None else Moments())
        for x, y, w in batches():
            survey.see(x, w)
            if see is not None:
                see(y, w)
        survey.check()
        return survey

    def _fitted_to(
        self, batches: Batches, survey: Survey, outputs: int, encode: Any, workers: Consensus | None
    ) -> tuple[Source, Learned]:
        rows, inputs = survey.rows, survey.inputs
        if workers is not None:
            rows = int(workers.total(torch.tensor(float(rows), dtype=torch.float64)))
        device, dtype = device_named(self.device), dtype_of(self.dtype, rows)
        source = Source(
            batches, survey.features or 0, outputs, rows, encode, device, dtype, int(self.batch_size), workers=workers
        )
        if inputs is not None:
            source = scaling_of(source, inputs, self.scale)
        learned = self._learn(source)
        # Nothing outlives fit that refers to the data.
        self.net_ = learned.network
        return source, learned

    def _check_workers(self, workers: Consensus, samples: int, *more: object) -> None:
        """Every worker has samples, and all processes set out for the same network."""
        if samples < workers.hosted:
            raise DataError(
                f"{samples} samples are too few for the {workers.hosted} workers of this process.",
                "Give every worker at least one.",
            )
        settings = {key: value for key, value in self.get_params().items() if key not in ("device", "batch_size")}
        workers.agree("features, classes or parameters", sorted(settings.items(), key=str), *more)
