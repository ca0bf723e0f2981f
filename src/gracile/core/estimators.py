"""What scikit-learn estimators around a torch network share: checks in our words, any arrays, classes, files."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.sparse import issparse
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
from torch import Tensor, nn

from gracile.core.devices import device_named
from gracile.core.errors import DataError, InputError
from gracile.core.estimator_files import read, write

NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


class Restorable(Protocol):
    """A network that says how it comes back from its own tensors; what an estimator needs to be saved."""

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor]) -> nn.Module:
        """The network whose `state_dict` these are."""
        ...


class NetworkEstimator(BaseEstimator):
    """An estimator that is a torch network once it is fitted.

    Attributes:
        batch_size: samples a forward pass.
        net_: the fitted network, from inputs (b, P) to outputs (b, Q).
    """

    batch_size: int
    net_: nn.Module
    n_features_in_: int

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator as one safetensors file, without pickle; read it with `load`.

        Raises:
            NotFittedError: it is not fitted.
            InputError: its labels are neither numbers nor strings.
            StorageError: the file cannot be written.
        """
        write(self, Path(path))

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> Self:
        """Read what `save` of this class wrote; it predicts as the saved one does.

        Args:
            path: the file.
            device: where it predicts.

        Raises:
            StorageError: no such file, or it holds no estimator of this class.
        """
        return read(Path(path), {cls.__name__: cls}, device_named(device))

    def _fitted(self) -> dict[str, Any]:
        """What `save` keeps beside parameters and network: numbers, strings, arrays, and lists and mappings of them."""
        own = lambda name: name.endswith("_") and not name.startswith("_") and not name.endswith("__")
        return {name: value for name, value in vars(self).items() if own(name) and name != "net_"}

    @abstractmethod
    def _restored(self, fitted: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
        """The network from its tensors, once parameters and what `_fitted` kept are set."""

    def _valid(self, X: Any, *y: Any, **options: Any) -> Any:
        """scikit-learn's check of X, or of X and y; sparse matrices come as CSR."""
        return in_our_words(lambda: validate_data(self, X, *y, accept_sparse="csr", dtype="numeric", **options))

    def _outputs(self, X: Any) -> np.ndarray:
        """The network's outputs (samples, Q)."""
        check_is_fitted(self, "net_")
        return self._run(self.net_, X)

    def _run(self, network: nn.Module, X: Any) -> np.ndarray:
        """A network's outputs, chunk by chunk."""
        X = self._valid(X, reset=False)
        first = next(self.net_.parameters())
        if X.dtype.kind == "f" and X.dtype.itemsize > 4 and first.dtype != torch.float64:
            # float64 inputs are answered in float64, so that a sample's output does not depend on its neighbours in the
            # batch beyond 1e-7, which matrix products in float32 cannot promise.
            network = copy.deepcopy(network).double()
            first = next(network.parameters())
        with torch.no_grad():
            parts = [
                network(as_tensor(X[start : start + self.batch_size], first.dtype, first.device)).cpu()
                for start in range(0, X.shape[0], self.batch_size)
            ]
        return torch.cat(parts).numpy()


class NetworkClassifier(ClassifierMixin, NetworkEstimator):
    """A classifier whose network scores every class.

    Attributes:
        classes_: the labels, sorted (Q,); of several targets a list with those of each, and of a multi-label problem
            (columns of 0 and 1) the numbers of the columns.
        multilabel_: whether it is one.
        temperature_: what scores are divided by before the softmax that makes probabilities of them, one number a
            target (targets,).
    """

    classes_: Any
    multilabel_: bool = False
    temperature_: np.ndarray

    def decision_function(self, X: Any) -> Any:
        """The network's scores (samples, Q); for two classes second less first (samples,).

        Of several targets (samples, targets) where all have two classes, else a list with the scores of each.
        """
        scores = [
            part[:, 1] - part[:, 0] if len(classes) == 2 else part
            for part, classes in zip(self._parts(X), self._targets(), strict=True)
        ]
        if not self._several:
            return scores[0]
        return np.stack(scores, 1) if all(part.ndim == 1 for part in scores) else scores

    def predict(self, X: Any) -> np.ndarray:
        """The label of the highest score (samples,), or (samples, targets)."""
        found = [classes[part.argmax(1)] for part, classes in zip(self._parts(X), self._targets(), strict=True)]
        if not self._several:
            return found[0]
        kinds = {part.dtype.kind for part in found}
        return np.stack([part if len(kinds) == 1 else part.astype(object) for part in found], 1)

    def predict_proba(self, X: Any) -> Any:
        """The probability of each class (samples, Q), from 0 to 1; its likeliest class is `predict`'s.

        Of several targets a list with the probabilities of each, and of a multi-label problem that of each label
        (samples, labels).
        """
        found = [softmax(part / t) for part, t in zip(self._parts(X), self.temperature_, strict=True)]
        if self.multilabel_:
            return np.stack([part[:, 1] for part in found], 1)
        return found if self._several else found[0]

    def predict_log_proba(self, X: Any) -> Any:
        """The logarithm of `predict_proba`."""
        found = self.predict_proba(X)
        with np.errstate(divide="ignore"):
            return [np.log(part) for part in found] if isinstance(found, list) else np.log(found)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy, from 0 to 1: the share of samples whose label, or whose labels all, are predicted.

        Labels that `fit` never saw count as missed.
        """
        y, found = np.asarray(y), self.predict(X)
        if found.ndim == 1 or y.ndim == 1:
            return float(accuracy_score(y, found, sample_weight=sample_weight))
        return float(np.average((y == found).all(1), weights=sample_weight))

    @property
    def _several(self) -> bool:
        return self.multilabel_ or isinstance(self.classes_, list)

    def _targets(self) -> list[np.ndarray]:
        """The classes of each target."""
        if self.multilabel_:
            return [np.array([0, 1])] * len(self.classes_)
        return self.classes_ if isinstance(self.classes_, list) else [self.classes_]

    def _parts(self, X: Any) -> list[np.ndarray]:
        """The scores of each target's classes."""
        outputs = self._outputs(X)
        return np.split(outputs, np.cumsum([len(classes) for classes in self._targets()])[:-1], 1)

    def _index(self, y: np.ndarray) -> np.ndarray:
        """For each label the index of its class (samples,), or (samples, targets).

        Raises:
            DataError: a label that is not among them, or another number of targets.
        """
        if self._several:
            if y.ndim != 2 or y.shape[1] != len(self.classes_):
                raise DataError(
                    f"y has the shape {y.shape} and there are {len(self.classes_)} targets.",
                    f"Give (samples, {len(self.classes_)}).",
                )
            return np.stack([index_of(y[:, i], known) for i, known in enumerate(self._targets())], 1)
        return index_of(labels_of(y), self.classes_)


def index_of(y: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """For each label (samples,) its place among the sorted classes.

    Raises:
        DataError: a label that is not among them.
    """
    try:
        index = np.searchsorted(classes, y).clip(max=len(classes) - 1)
        wrong = classes[index] != y
    except TypeError:
        wrong = np.array([label not in set(classes.tolist()) for label in y.tolist()])
        index = np.zeros(len(y), dtype=np.int64)
    if wrong.any():
        raise DataError(
            f"The data hold the label {y[wrong][0]!r}, which is not among the classes.", "Name every class."
        )
    return index


def classes_of(y: Any) -> np.ndarray:
    """The labels of one target, sorted.

    Raises:
        DataError: fewer than two.
        ValueError: they are no labels, in scikit-learn's words.
    """
    y = column_or_1d(y, warn=True)
    check_classification_targets(y)
    return check_classes(np.unique(y))


def check_classes(classes: np.ndarray) -> np.ndarray:
    """Raises DataError where there are fewer than two."""
    if len(classes) < 2:
        raise DataError(f"y holds one class only: {classes.tolist()}.", "Give samples of at least two classes.")
    return classes


def labels_of(y: Any) -> np.ndarray:
    """Labels of one target as one flat array.

    Raises:
        DataError: y has more than one column.
    """
    y = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if y.ndim > 1 and y.shape[1] > 1:
        raise DataError(
            f"y has {y.shape[1]} columns, and one label per sample is learned.",
            "Give one column; turn one-hot rows into labels with y.argmax(1).",
        )
    return column_or_1d(y, warn=True)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Rows (samples, Q) as probabilities, float64."""
    scores = scores.astype(np.float64)
    raised = np.exp(scores - scores.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def temperature(scores: np.ndarray, index: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The divisor of scores (samples, Q) whose softmax gives the classes `index` (samples,) the highest likelihood.

    As if one more sample had been of another class than its scores say (Laplace's rule of succession): where all are right the
    likelihood rises without end as the divisor falls, and the first wrong answer would cost any amount of it. Of N samples
    scored 1 for their class and 0 for the others, the class gets N / (N + 1).
    """
    weights = np.ones(len(index)) if weights is None else np.asarray(weights, dtype=np.float64)
    # Weights below 1 are samples all the same, so that only their ratios matter.
    one = min(1.0, float(weights.max()))
    picked, others = (np.arange(len(index)), index), max(1, scores.shape[1] - 1)

    def loss(log: float) -> float:
        surprise = -log_softmax(scores / np.exp(log), axis=1)
        right = surprise[picked]
        wrong = (surprise.sum(1) - right) / others
        return float(weights @ right + one * np.average(wrong, weights=weights)) / float(weights.sum() + one)

    found = minimize_scalar(loss, bounds=(-7.0, 5.0), method="bounded", options={"xatol": 1e-10})
    return float(np.exp(found.x))


def in_our_words(check: Callable[[], Any]) -> Any:
    """Run scikit-learn's check; a NaN is told as the other errors are, with a remedy."""
    try:
        return check()
    except ValueError as error:
        text = str(error).splitlines()[0].rstrip(".")
        if "NaN" in text or "infinity" in text:
            raise DataError(
                f"{text}.", "Drop or fill those samples, for instance with sklearn.impute.SimpleImputer."
            ) from None
        raise


def as_tensor(x: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Rows of an array of any kind (sparse, strided, big-endian, longdouble, read-only) as a tensor."""
    if isinstance(x, Tensor):
        return x.detach().to(device, dtype)
    # torch takes neither negative strides nor foreign byte orders, and warns about memory it may not write to.
    x = np.ascontiguousarray(x.toarray() if issparse(x) else x, dtype=NUMPY[dtype])
    return torch.from_numpy(x if x.flags.writeable else x.copy()).to(device)


def tensor_of(values: Any) -> Tensor:
    """An array of any kind as a tensor of its own number type (float64 for longdouble)."""
    if isinstance(values, Tensor):
        return values.detach()
    array = np.asarray(values.toarray() if issparse(values) else values)
    kind = np.dtype(np.float64) if array.dtype.char == "g" else array.dtype.newbyteorder("=")
    array = np.ascontiguousarray(array, dtype=kind).reshape(array.shape)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def whole(name: str, value: Any, least: int = 1) -> int:
    """A whole number as Python's own, whatever number type it comes in.

    Raises:
        InputError: it is none, or below `least`.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} = {value!r} is no whole number from {least} up.", f"Give one, such as {least}.")
    return int(value)


def is_number(value: Any) -> bool:
    """Whether it is a finite real number, of Python's or numpy's types."""
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_) and bool(np.isfinite(float(value)))
