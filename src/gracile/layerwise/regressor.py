"""Regressors by least squares, on targets of mean 0 and deviation 1."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from sklearn.base import RegressorMixin
from torch import Tensor

from gracile.core.errors import DataError
from gracile.core.estimators import as_tensor
from gracile.core.network import Network
from gracile.layerwise.consensus import Consensus, consensus
from gracile.layerwise.estimator import CPU, Learner
from gracile.layerwise.passes import Given, Passes
from gracile.layerwise.source import Batches
from gracile.layerwise.survey import Moments


class Regressor(RegressorMixin, Learner):
    """A learner of numbers by least squares; targets are centred and scaled while learning.

    Attributes:
        target_mean_: of each output (Q,).
        target_scale_: of each output (Q,).
        flat_: whether y had one dimension, and predictions have.
    """

    target_mean_: np.ndarray
    target_scale_: np.ndarray
    flat_: bool

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, workers: Network | Consensus | None = None) -> Self:
        """Fit to arrays.

        Args:
            X: (samples, features), any number type, dense or sparse.
            y: (samples,) or (samples, outputs).
            sample_weight: how much each sample counts (samples,), from 0 up.
            workers: a network to learn over, as `Classifier.fit` takes it.

        Raises:
            DataError: NaN, constant features, weights below 0, or a worker without samples.
            InputError: a parameter out of its range, a singular Gram matrix, or workers that do not agree.
        """
        X, y, weights = self._checked(X, y, sample_weight, multi_output=True, y_numeric=True)
        joint = consensus(workers)
        if joint is not None:
            self._check_workers(joint, len(y), X.shape[1], y.shape[1:])
        return self._fit(lambda: [(X, y, weights)], joint)

    def fit_stream(self, batches: Given) -> Self:
        """Fit to data that need not be in memory; see `Classifier.fit_stream`."""
        self._check_parameters()
        self._fit(Passes(batches, self.ordered), None, streamed=True)
        return self

    def _fit(self, batches: Batches, workers: Consensus | None, streamed: bool = False) -> Self:
        moments, total = Moments(), 0.0

        def see(y: np.ndarray, w: np.ndarray | None) -> None:
            nonlocal total
            values = np.asarray(y, dtype=np.float64)
            self.flat_ = values.ndim == 1
            if not np.isfinite(values).all():
                raise DataError("A batch of y contains NaN or infinity.", "Drop those samples.")
            total += float(len(values) if w is None else w.sum())
            moments.add(
                as_tensor(values.reshape(len(values), -1), torch.float64, CPU),
                None if w is None else as_tensor(w, torch.float64, CPU),
            )

        survey = self._survey(batches, see)
        if streamed:
            self.n_features_in_ = int(survey.features or 0)
        assert moments.mean is not None
        mean, variance = moments.mean.numpy(), moments.variance().numpy()
        if workers is not None:
            mean, variance = workers.moments(total, mean, variance)  # pyright: ignore[reportArgumentType]
        self._set_target_scale(mean, variance)
        self._fitted_to(batches, survey, len(mean), self._standardised, workers)
        return self

    def _set_target_scale(self, mean: np.ndarray, variance: np.ndarray) -> None:
        deviation = np.sqrt(variance)
        self._target_variance = variance
        self.target_mean_ = mean
        self.target_scale_ = np.where(deviation > 0, deviation, 1.0)

    def predict(self, X: Any) -> np.ndarray:
        """Predictions (samples,), or (samples, outputs) when fitted so."""
        outputs = self._outputs(X) * self.target_scale_ + self.target_mean_
        return outputs[:, 0] if self.flat_ else outputs

    def _standardised(self, y: np.ndarray) -> Tensor:
        values = np.asarray(y, dtype=np.float64).reshape(len(y), -1)
        return torch.from_numpy((values - self.target_mean_) / self.target_scale_)
