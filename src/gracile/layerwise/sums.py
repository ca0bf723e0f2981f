"""Learners with one random hidden layer: what they learn are sums over samples, so data may come piece by piece."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.utils.metaestimators import available_if
from torch import Tensor, nn

from gracile.core.devices import device_named
from gracile.core.errors import InputError
from gracile.core.estimators import as_tensor, check_classes
from gracile.core.sample_weights import check_weights
from gracile.layerwise.classifier import Classifier
from gracile.layerwise.estimator import CPU, Learned, Learner, solved
from gracile.layerwise.flow import chain, hidden
from gracile.layerwise.regressor import Regressor
from gracile.layerwise.ridge import ridge
from gracile.layerwise.shared import Shared
from gracile.layerwise.source import Features, Source, dtype_of
from gracile.layerwise.statistics import Dual, Statistics, accumulate
from gracile.layerwise.survey import Moments


def _adds_up(learner: SumLearner) -> bool:
    """Whether all that is random or chosen is known before the first sample is seen.

    Raises:
        AttributeError: it is not, in words that say what to set.
    """
    if not learner._open():
        raise AttributeError(
            "partial_fit adds up sums, for which everything but the samples has to be known before: set lam and the "
            "width to numbers and scale to None."
        )
    return True


@dataclass(frozen=True)
class Nodes:
    """A hidden layer, and what the ridge regression on top of it reads.

    Attributes:
        weight: of the layer (n, P), for scaled inputs.
        bias: of the layer (n,).
    """

    weight: Tensor
    bias: Tensor

    @property
    def width(self) -> int:
        """How many features are read, r."""
        return len(self.bias)

    def __call__(self, x: Tensor) -> Tensor:
        """Scaled inputs (b, P) to what is read (b, r)."""
        return hidden(x, self.weight, self.bias)

    def spread(self, output: Tensor) -> Tensor:
        """Weights of what is read (r, Q) as the nodes' (n, Q), of the same norm."""
        return output


class SumLearner(Learner):
    """A hidden layer that is drawn, and a ridge regression on top."""

    lam_: float
    _sums: Statistics | None = None
    _nodes: Nodes

    @abstractmethod
    def _first_layer(self, source: Source) -> Nodes:
        """The layer that is drawn."""

    @abstractmethod
    def _known_before(self) -> bool:
        """Whether the first layer depends on the number of features alone."""

    def _open(self) -> bool:
        """Whether samples may be added later."""
        return not isinstance(self.lam, str) and self.scale is None and self._known_before()

    def _learn(self, source: Source) -> Learned:
        self._sums = None
        nodes = self._first_layer(source)
        problem: Statistics | Dual | Shared
        if source.workers is None and self._open():
            self._nodes, self.lam_ = nodes, float(self.lam)
            problem, output = self._gathered(source.through(nodes))
        else:
            found = ridge(source.through(nodes), self.lam)
            problem, output, self.lam_ = found.problem, found.weights, found.lam
        first = nodes.weight, nodes.bias
        if source.scaling is not None:
            first = source.scaling.folded(*first)
        return solved(_stacked(first, nodes.spread(output), source.dtype), nodes, problem, output, self.lam_)

    def _gathered(self, features: Features) -> tuple[Statistics, Tensor]:
        """The problem and its solution, with sums kept that more samples may be added to."""
        sums = features.problem(primal=True)
        assert isinstance(sums, Statistics)
        self._sums = sums
        return sums, sums.ridge(self.lam_)

    def _add(self, X: Any, targets: Any, weights: np.ndarray | None, outputs: int, encode: Any) -> Statistics:
        """The sums of earlier calls with these samples in them."""
        dtype = torch.float64 if self.dtype == "auto" else dtype_of(self.dtype, 0)
        if self._sums is not None:
            dtype = self._nodes.weight.dtype
        device = device_named(self.device)
        batches = lambda: [(X, targets, weights)]
        size = int(self.batch_size)
        source = Source(batches, X.shape[1], outputs, X.shape[0], encode, device, dtype, size)
        if self._sums is None:
            self._nodes = self._first_layer(source)
            self._sums = Statistics(self._nodes.width, outputs, device)
        for y, t, w in source.through(self._nodes)():
            self._sums.add(y, t, w)
        return self._sums

    def _begins(self) -> bool:
        """Whether there are no earlier samples.

        Raises:
            InputError: there are, and their sums are not known.
        """
        if self._sums is None and hasattr(self, "net_"):
            raise InputError(
                "This estimator was fitted without keeping sums that more samples could be added to.",
                "Begin with partial_fit, on sklearn.base.clone(estimator).",
            )
        return self._sums is None

    def _solve(self, sums: Statistics) -> Tensor:
        self.lam_ = float(self.lam)
        output = sums.ridge(self.lam_)
        nodes = self._nodes
        self.net_ = _stacked((nodes.weight, nodes.bias), nodes.spread(output), nodes.weight.dtype)
        return output


def _stacked(first: tuple[Tensor, Tensor], output: Tensor, dtype: torch.dtype) -> nn.Module:
    return chain([first, (output.T.to(dtype).contiguous(), None)])


class SumClassifier(SumLearner, Classifier):
    """The half of classifiers."""

    @available_if(_adds_up)
    def partial_fit(self, X: Any, y: Any, classes: Iterable[Any] | None = None, sample_weight: Any = None) -> Self:
        """Learn more samples; after all of them the network is the one of a single fit, to rounding.

        It is there where lam and the width are numbers and scale is None; the estimator then keeps its sums, n x n
        numbers. After `fit` it goes on from its samples; a call to `fit` starts anew.

        Args:
            X: (samples, features), as `fit` takes it.
            y: labels, as `fit` takes them.
            sample_weight: how much each sample counts (samples,), from 0 up.
            classes: all labels; needed at the first call, unless its y holds them all.

        Raises:
            DataError, InputError: as `fit` does, except that a single sample will do; also where the estimator comes
                from a file, which keeps no sums.
        """
        self._check_parameters()
        if self.class_weight == "balanced":
            raise InputError('class_weight="balanced" needs all labels at once.', "Give a weight for each label.")
        begins = self._begins()
        X, y = self._valid(X, y, reset=begins, multi_output=True)
        y = y.toarray() if issparse(y) else y
        weights = None if sample_weight is None else check_weights(sample_weight, len(y))
        if begins:
            if classes is None:
                self._set_classes(y)
            else:
                self.classes_ = check_classes(np.unique(np.asarray(list(classes))))
        index = self._index(y)
        outputs = sum(map(len, self._targets()))
        sums = self._add(X, index, self._class_weighted(index, weights), outputs, self._one_hot)
        variance = sums.cost(self._solve(sums)) / (sums.count * outputs)
        self.temperature_ = np.full(len(self._targets()), max(variance, 1e-6))
        return self


class SumRegressor(SumLearner, Regressor):
    """The half of regressors."""

    _targets_seen: Moments
    _around: np.ndarray

    def _gathered(self, features: Features) -> tuple[Statistics, Tensor]:
        source = features.source
        scaled = source.encode
        ones = lambda y: torch.cat([scaled(y), torch.ones(len(y), 1, dtype=torch.float64)], 1)
        sums = accumulate(replace(source, encode=ones, outputs=source.outputs + 1).through(features.network))
        cross, constant = sums.cross[:, :-1], sums.cross[:, -1:]
        problem = Statistics.of(sums.gram, cross, sums.energy - sums.count, sums.count)
        # Kept as sums around the mean, in the targets' own units.
        own = cross * torch.as_tensor(self.target_scale_, device=cross.device)
        self._around, self._targets_seen = self.target_mean_.copy(), Moments()
        self._targets_seen.weight = sums.count
        self._targets_seen.mean = torch.as_tensor(self.target_mean_)
        self._targets_seen.squares = torch.as_tensor(self._target_variance * sums.count)
        self._sums = Statistics.of(sums.gram.clone(), torch.cat([own, constant], 1), 0.0, sums.count)
        return problem, problem.ridge(self.lam_)

    @available_if(_adds_up)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn more samples; see `SumClassifier.partial_fit`."""
        self._check_parameters()
        begins = self._begins()
        X, y = self._valid(X, y, reset=begins, multi_output=True, y_numeric=True)
        weights = None if sample_weight is None else check_weights(sample_weight, len(y))
        values = np.asarray(y, dtype=np.float64).reshape(len(y), -1)
        if begins:
            # Sums around the first target: plain ones lose all digits where the mean is far from zero.
            self._targets_seen, self._around, self.flat_ = Moments(), values[0].copy(), y.ndim == 1
        self._targets_seen.add(
            as_tensor(values, torch.float64, CPU), None if weights is None else as_tensor(weights, torch.float64, CPU)
        )
        moved = np.column_stack([values - self._around, np.ones(len(y))])
        sums = self._add(X, moved, weights, moved.shape[1], torch.from_numpy)
        assert self._targets_seen.mean is not None
        self._set_target_scale(self._targets_seen.mean.numpy(), self._targets_seen.variance().numpy())
        # Y'(t - mean) / scale of all samples, from Y't and Y'1, whatever the mean has become.
        shift, scale = (
            torch.as_tensor(part, device=sums.cross.device)
            for part in (self.target_mean_ - self._around, self.target_scale_)
        )
        cross = (sums.cross[:, :-1] - sums.cross[:, -1:] * shift) / scale
        self._solve(Statistics.of(sums.gram, cross, 0.0, sums.count))
        return self
