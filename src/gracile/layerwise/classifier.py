"""Classifiers by least squares on one-hot targets: labels, weights of classes, calibrated probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.utils.multiclass import type_of_target
from torch import Tensor, nn

from gracile.core.errors import InputError
from gracile.core.estimators import NetworkClassifier, check_classes, classes_of, labels_of, temperature
from gracile.core.network import Network
from gracile.core.sample_weights import weights_of_classes
from gracile.layerwise.consensus import Consensus, consensus
from gracile.layerwise.estimator import Learner
from gracile.layerwise.passes import Given, Passes
from gracile.layerwise.source import Batches, Chunk
from gracile.layerwise.survey import Survey

# Samples whose held-out scores choose the temperature, a single number.
CALIBRATION = 1000


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
            factors *= weights_of_classes(self.class_weight, column, classes, weights)[column]
        if isinstance(self.lam, str):
            # A heavy class is no class of many copies: one of its samples is left out as a whole when lam is chosen,
            # which a weight of at most 1 says. A chosen lam follows the weights' size, so nothing else changes.
            factors /= factors.max()
        return factors if weights is None else factors * weights
