"""What the scikit-learn estimators of this room share: checking, streaming, encoding targets, predicting in chunks.

A learner is a class with a constructor and `_learn(source) -> nn.Module`; the module maps inputs (b, P) to outputs (b,
Q).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import RegressorMixin
from sklearn.utils.validation import validate_data
from torch import Tensor, nn

from gracile.core.errors import DataError, InputError
from gracile.core.estimators import (
    NetworkClassifier,
    NetworkEstimator,
    check_classes,
    device_of,
    in_our_words,
    labels_of,
    refuse_columns,
)
from gracile.core.network import Network
from gracile.layerwise.consensus import Consensus, consensus
from gracile.layerwise.ridge import check_lam
from gracile.layerwise.source import Batches, Source, Varies, check_matrix, dtype_of


class Learner(NetworkEstimator):
    """The shared half of every estimator; see the classes for their own parameters.

    Parameters that all of them have:
        lam: regularisation strength from 0 up, or "auto": chosen by leave-one-out in closed form.
        seed: of the random weights.
        batch_size: samples worked on at a time; results do not depend on it beyond rounding.
        device: "cpu" or "cuda".
        dtype: "float32" or "float64", of the features; sums over samples are float64 either way.

    Attributes:
        net_: the fitted network, a torch module from inputs (b, P) to outputs (b, Q).
    """

    lam: float | str
    seed: int
    device: str
    dtype: str

    @abstractmethod
    def _learn(self, source: Source) -> nn.Module:
        """Fit the network to a stream and set what else the class promises."""

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator as one safetensors file; read it with `gracile.layerwise.load`.

        Raises:
            StorageError: the file cannot be written.
        """
        from gracile.layerwise.storage import save

        save(self, Path(path))

    def _checked(self, X: Any, y: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
        self._check_parameters()
        X, y = in_our_words(lambda: validate_data(self, X, y, dtype="numeric", ensure_min_samples=2, **options))
        varies = Varies()
        varies.see(X)
        varies.check()
        return X, y

    def _check_parameters(self) -> None:
        check_lam(self.lam)
        if not isinstance(self.batch_size, int | np.integer) or self.batch_size < 1:
            raise InputError(
                f"batch_size = {self.batch_size!r} is no number of samples.", "Give a whole number from 1 up."
            )
        device_of(self.device)
        dtype_of(self.dtype)

    def _source(
        self, batches: Batches, features: int, outputs: int, encode: Any, workers: Consensus | None = None
    ) -> Source:
        kinds = device_of(self.device), dtype_of(self.dtype), int(self.batch_size)
        return Source(batches, features, outputs, encode, *kinds, workers)

    def _check_workers(self, workers: Consensus, samples: int, *more: object) -> None:
        """Every worker has samples, and all processes set out for the same network."""
        if samples < workers.hosted:
            raise DataError(
                f"{samples} samples are too few for the {workers.hosted} workers of this process.",
                "Give every worker at least one.",
            )
        settings = {key: value for key, value in self.get_params().items() if key not in ("device", "batch_size")}
        workers.agree("features, classes or parameters", sorted(settings.items(), key=str), *more)


class Classifier(NetworkClassifier, Learner):
    """A learner of classes by least squares on one-hot targets, which its scores estimate.

    Attributes:
        classes_: the labels, sorted (Q,).
    """

    def fit(
        self, X: Any, y: Any, workers: Network | Consensus | None = None, classes: Iterable[Any] | None = None
    ) -> Self:
        """Fit to arrays.

        Args:
            X: (samples, features), any number type; rows are converted chunk by chunk, so memory maps and bytes stay as
                they are.
            y: labels (samples,), numbers or strings.
            workers: a network to learn over, by consensus (see `Consensus` for how). X is this process's part of the
                data, contiguous shares of which go to the workers it hosts; every process calls fit. All then hold the
                same network.
            classes: all labels, where y may lack some.

        Raises:
            DataError: NaN, constant features, one class only, more than one label column, labels that are not among
                `classes`, or a worker without samples.
            InputError: a parameter out of its range, a singular Gram matrix, or workers that do not agree.
        """
        refuse_columns(y)
        X, index = self._indexed(*self._checked(X, y), classes)
        joint = consensus(workers)
        if joint is not None:
            self._check_workers(joint, len(index), X.shape[1], self.classes_.tolist())
        # No reference to the data outlives fit: the source is local.
        self.net_ = self._learn(
            self._source(lambda: [(X, index)], X.shape[1], len(self.classes_), self._one_hot, joint)
        )
        return self

    def fit_stream(self, batches: Batches, classes: Iterable[Any] | None = None) -> Self:
        """Fit to data that need not be in memory.

        Args:
            batches: called for each pass over the data (one to a few a layer); returns an iterable of (X, y) with X (b,
                features) and y (b,), the same samples in the same order each time.
            classes: all labels, where known; otherwise one more pass finds them.

        Raises:
            DataError, InputError: as `fit` does; also for labels that are not among `classes`.
        """
        self._check_parameters()
        found: set[Any] = set() if classes is None else set(np.asarray(list(classes)).tolist())
        features, varies = None, Varies()
        for X, y in batches():
            X = check_matrix(X, features)
            features = X.shape[1]
            varies.see(X)
            if classes is None:
                found.update(np.unique(labels_of(y)).tolist())
        if features is None:
            raise DataError("The stream holds no batch.", "Make it yield (X, y), and anew at every call.")
        varies.check()
        self.classes_ = np.array(sorted(found))
        check_classes(self.classes_)
        self.n_features_in_ = features

        def indexed() -> Iterable[tuple[Any, np.ndarray]]:
            for X, y in batches():
                yield check_matrix(X, features), self._index(_paired(X, labels_of(y)))

        self.net_ = self._learn(self._source(indexed, features, len(self.classes_), self._one_hot))
        return self

    def _one_hot(self, index: np.ndarray) -> Tensor:
        return nn.functional.one_hot(torch.from_numpy(np.array(index, dtype=np.int64)), len(self.classes_))


class Regressor(RegressorMixin, Learner):
    """A learner of numbers by least squares; targets are centred and scaled while learning.

    Attributes:
        target_mean_, target_scale_: of each output (Q,).
    """

    target_mean_: np.ndarray
    target_scale_: np.ndarray

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, workers: Network | Consensus | None = None) -> Self:
        """Fit to arrays.

        Args:
            X: (samples, features), any number type.
            y: (samples,) or (samples, outputs).
            workers: as `Classifier.fit`'s.

        Raises:
            DataError: NaN, constant features, or a worker without samples.
            InputError: a parameter out of its range, a singular Gram matrix, or workers that do not agree.
        """
        X, y = self._checked(X, y, multi_output=True, y_numeric=True)
        joint = consensus(workers)
        if joint is not None:
            self._check_workers(joint, len(y), X.shape[1], y.shape[1:])
        return self._fit_stream(lambda: [(X, y)], X.shape[1], joint)

    def fit_stream(self, batches: Batches) -> Self:
        """Fit to data that need not be in memory; see `Classifier.fit_stream`."""
        self._check_parameters()
        features, varies = None, Varies()
        for X, _ in batches():
            X = check_matrix(X, features)
            features = X.shape[1]
            varies.see(X)
        if features is None:
            raise DataError("The stream holds no batch.", "Make it yield (X, y), and anew at every call.")
        varies.check()
        self.n_features_in_ = features
        return self._fit_stream(
            lambda: ((check_matrix(X, features), _paired(X, np.asarray(y))) for X, y in batches()), features
        )

    def _fit_stream(self, batches: Batches, features: int, workers: Consensus | None = None) -> Self:
        count, total, squares, self._flat = 0, 0.0, 0.0, True
        shift = None
        for _, y in batches():
            y = np.asarray(y, dtype=np.float64)
            self._flat = y.ndim == 1
            y = y.reshape(len(y), -1)
            if not np.isfinite(y).all():
                raise DataError("A batch of y contains NaN or infinity.", "Drop those samples.")
            # Sums around the first target: plain sums of squares lose all digits when the mean is far from zero.
            shift = y[0] if shift is None else shift
            count, total, squares = count + len(y), total + (y - shift).sum(0), squares + np.square(y - shift).sum(0)
        assert shift is not None
        mean = total / count
        variance = np.maximum(squares / count - mean**2, 0)
        mean += shift
        if workers is not None:
            mean, variance = workers.moments(count, mean, variance)
        deviation = np.sqrt(variance)
        self.target_mean_ = mean
        self.target_scale_ = np.where(deviation > 0, deviation, 1.0)
        self.net_ = self._learn(self._source(batches, features, len(self.target_mean_), self._standardised, workers))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predictions (samples,), or (samples, outputs) when fitted so."""
        outputs = self._outputs(X) * self.target_scale_ + self.target_mean_
        return outputs[:, 0] if self._flat else outputs

    def _standardised(self, y: np.ndarray) -> Tensor:
        values = np.asarray(y, dtype=np.float64).reshape(len(y), -1)
        return torch.from_numpy((values - self.target_mean_) / self.target_scale_)


def _paired(X: Any, y: np.ndarray) -> np.ndarray:
    if len(X) != len(y):
        raise DataError(f"A batch has {len(X)} rows of X and {len(y)} of y.", "Give one y for each row of X.")
    return y
