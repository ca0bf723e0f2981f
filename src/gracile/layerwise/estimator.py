"""What the scikit-learn estimators of this room share: checking, streaming, scaling, targets, probabilities.

A learner is a class with a constructor and `_learn(source) -> Learned`, whose network maps inputs (b, P) to outputs (b,
Q).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import RegressorMixin
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import type_of_target
from torch import Tensor, nn

from gracile.core.errors import DataError, InputError
from gracile.core.estimators import (
    NetworkClassifier,
    NetworkEstimator,
    Restorable,
    as_tensor,
    check_classes,
    classes_of,
    device_of,
    labels_of,
    temperature,
    whole,
)
from gracile.core.network import Network
from gracile.layerwise.consensus import Consensus, Shared, consensus
from gracile.layerwise.flow import Chain
from gracile.layerwise.passes import Given, Passes, check_weights
from gracile.layerwise.ridge import check_lam, left_out
from gracile.layerwise.scaling import check_scale, scaling_of
from gracile.layerwise.source import Batches, Chunk, Source, dtype_of
from gracile.layerwise.statistics import Dual, Statistics, weighted
from gracile.layerwise.survey import Moments, Survey

# Samples whose held-out scores choose the temperature, a single number.
CALIBRATION = 2000

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
            "all" by one, as suits pixels, "auto" by what predicts 600 left-out samples better, or None.
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
        present = weights > 0
        if not present.any():
            raise DataError("All weights are zero.", "Give at least some samples a weight above 0.")
        # A sample of no weight is no sample: neither of the spread of inputs nor of a kernel's landmarks.
        return (X, y, weights) if present.all() else (X[present], y[present], weights[present])

    def _check_parameters(self) -> None:
        check_lam(self.lam)
        check_scale(self.scale)
        whole("batch_size", self.batch_size)
        device_of(self.device)
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
        device, dtype = device_of(self.device), dtype_of(self.dtype, rows)
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


class Classifier(NetworkClassifier, Learner):
    """A learner of classes by least squares on one-hot targets, which its scores estimate.

    Parameters that all of them have beside `Learner`'s:
        class_weight: None, "balanced" (classes of equal weight in sum), or a weight for each label; of several targets
            the weights of a sample's labels are multiplied.

    Attributes:
        classes_: the labels, sorted (Q,), or a list of them for several targets.
        temperature_: of the softmax that makes probabilities of scores, one number per target (targets,). It is the one
            of the highest likelihood of samples left out one at a time, in closed form; over workers and by partial_fit
            the variance of the errors, as if scores were the one-hot targets with Gaussian noise.
    """

    class_weight: Mapping[Any, float] | str | None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.classifier_tags.multi_label = True
        return tags

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        workers: Network | Consensus | None = None,
        classes: Iterable[Any] | None = None,
    ) -> Self:
        """Fit to arrays.

        Args:
            X: (samples, features), any number type, dense or sparse; rows are converted chunk by chunk, so memory maps
                and bytes stay as they are.
            y: labels, numbers or strings (samples,), or (samples, targets) to learn several targets at once.
            sample_weight: how much each sample counts (samples,), from 0 up; a weight of 3 is three copies.
            workers: a network to learn over, by consensus (see `Consensus` for how). X is this process's part of the
                data, contiguous shares of which go to the workers it hosts; every process calls fit. All then hold the
                same network.
            classes: all labels, where y may lack some.

        Raises:
            DataError: NaN, constant features, one class only, labels that are not among `classes`, weights below 0, or
                a worker without samples.
            InputError: a parameter out of its range, a singular Gram matrix, or workers that do not agree.
        """
        X, y, weights = self._checked(X, y, sample_weight, multi_output=True)
        y = y.toarray() if issparse(y) else y
        self._set_classes(y, classes)
        index = self._index(y)
        joint = consensus(workers)
        if joint is not None:
            self._check_workers(joint, len(index), X.shape[1], [known.tolist() for known in self._targets()])
        weights = self._class_weighted(index, weights)
        batches = lambda: [(X, index, weights)]
        return self._fit(batches, self._survey(batches), joint)

    def fit_stream(self, batches: Given, classes: Iterable[Any] | None = None) -> Self:
        """Fit to data that need not be in memory.

        Args:
            batches: a DataLoader, a list, or a function that returns an iterable anew at every call, of (X, y) or (X,
                y, sample_weight) with X (b, features), y (b,) and sample_weight (b,). It is passed over one to a few
                times per layer and has to give the same samples each time: no augmentation, and for DKN no shuffling
                either.
            classes: all labels, where known; otherwise the first pass finds them.

        Raises:
            DataError, InputError: as `fit` does; also where a pass gives other samples than the first.
        """
        self._check_parameters()
        if self.class_weight is not None:
            raise InputError("class_weight needs all labels before learning.", "Give sample_weight in the batches.")
        passes = Passes(batches, self.ordered)
        found: set[Any] = set()
        survey = self._survey(passes, lambda y, _: found.update(np.unique(labels_of(y)).tolist()))
        self.classes_ = check_classes(np.unique(np.array(list(found if classes is None else classes))))
        self.multilabel_ = False
        self.n_features_in_ = int(survey.features or 0)

        def indexed() -> Iterator[tuple[Any, np.ndarray, Any]]:
            return ((x, self._index(y), w) for x, y, w in passes())

        return self._fit(indexed, survey, None)

    def _set_classes(self, y: np.ndarray, classes: Iterable[Any] | None = None) -> None:
        """Those of y unless they are given."""
        self.multilabel_ = type_of_target(y) == "multilabel-indicator"
        if y.ndim == 2 and y.shape[1] > 1:
            if classes is not None:
                raise InputError("classes are given for one target only.", "Leave them out for several targets.")
            self.classes_ = np.arange(y.shape[1]) if self.multilabel_ else [classes_of(column) for column in y.T]
        else:
            found = classes_of(y)
            self.classes_ = found if classes is None else check_classes(np.unique(np.asarray(list(classes))))

    def _fit(self, batches: Batches, survey: Survey, workers: Consensus | None) -> Self:
        outputs = sum(map(len, self._targets()))
        source, learned = self._fitted_to(batches, survey, outputs, self._one_hot, workers)
        self.temperature_ = np.full(len(self._targets()), max(learned.variance, 1e-6))
        if learned.held_out is not None:
            chunk, places = source.sample(CALIBRATION)
            scores = learned.held_out(chunk, places).cpu().numpy()
            self.temperature_ = self._temperatures(scores, chunk)
        return self

    def _temperatures(self, scores: np.ndarray, chunk: Chunk) -> np.ndarray:
        edges = np.cumsum([len(classes) for classes in self._targets()])[:-1]
        weights = None if chunk.w is None else chunk.w.cpu().numpy()
        pairs = zip(np.split(scores, edges, 1), np.split(chunk.t.cpu().numpy(), edges, 1), strict=True)
        return np.array([temperature(part, hot.argmax(1), weights) for part, hot in pairs])

    def _one_hot(self, index: np.ndarray) -> Tensor:
        columns = torch.from_numpy(np.array(index, dtype=np.int64)).reshape(len(index), -1)
        parts = [nn.functional.one_hot(columns[:, i], len(known)) for i, known in enumerate(self._targets())]
        return torch.cat(parts, 1)

    def _class_weighted(self, index: np.ndarray, weights: np.ndarray | None) -> np.ndarray | None:
        """The samples' weights times those of their classes."""
        if self.class_weight is None:
            return weights
        if isinstance(self.class_weight, Mapping) and self._several:
            raise InputError("A weight for each label is for one target only.", 'Use class_weight="balanced".')
        factors = np.ones(len(index))
        for column, classes in zip(index.reshape(len(index), -1).T, self._targets(), strict=True):
            factors *= _weights_of_classes(self.class_weight, column, classes, weights)[column]
        if isinstance(self.lam, str):
            # A heavy class is no class of many copies: one of its samples is left out as a whole when lam is chosen,
            # which a weight of at most 1 says. A chosen lam follows the weights' size, so nothing else changes.
            factors /= factors.max()
        return factors if weights is None else factors * weights


def _weights_of_classes(
    given: Mapping[Any, float] | str, index: np.ndarray, classes: np.ndarray, weights: np.ndarray | None
) -> np.ndarray:
    if isinstance(given, Mapping):
        unknown = [label for label in given if label not in classes]
        if unknown:
            raise InputError(f"class_weight names the label {unknown[0]!r}, which is not in y.", "Leave it out.")
        return np.array([float(given.get(label, 1.0)) for label in classes.tolist()])
    if given != "balanced":
        raise InputError(
            f"class_weight = {given!r} is not known.", 'Choose None, "balanced" or a weight for each label.'
        )
    if weights is None:
        found = np.ones(len(classes))
        present = np.unique(index)
        found[present] = compute_class_weight("balanced", classes=present, y=index)
        return found
    sums = np.bincount(index, weights, minlength=len(classes))
    return weights.sum() / (len(classes) * np.where(sums > 0, sums, 1.0))


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
