"""What scikit-learn estimators around a torch network share: checks in our words, predicting in chunks, classes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
from torch import Tensor, nn

from gracile.core.errors import DataError, InputError


class NetworkEstimator(BaseEstimator):
    """An estimator that is a torch network once it is fitted.

    Attributes:
        batch_size: samples a forward pass.
        net_: the fitted network, from inputs (b, P) to outputs (b, Q).
    """

    batch_size: int
    net_: nn.Module
    n_features_in_: int

    def _outputs(self, X: Any) -> np.ndarray:
        """The network's outputs (samples, Q)."""
        check_is_fitted(self, "net_")
        return self._run(self.net_, X)

    def _run(self, network: nn.Module, X: Any) -> np.ndarray:
        """A network's outputs, chunk by chunk."""
        X = in_our_words(lambda: validate_data(self, X, reset=False, dtype="numeric"))
        first = next(self.net_.parameters())
        if X.dtype == np.float64 and first.dtype != torch.float64:
            # float64 inputs are answered in float64, so that a sample's output does not depend on its neighbours in the
            # batch beyond 1e-7, which matrix products in float32 cannot promise.
            network = copy.deepcopy(network).double()
            first = next(network.parameters())
        with torch.no_grad():
            parts = [
                network(as_tensor(X[start : start + self.batch_size], first.dtype, first.device)).cpu()
                for start in range(0, len(X), self.batch_size)
            ]
        return torch.cat(parts).numpy()


class NetworkClassifier(ClassifierMixin, NetworkEstimator):
    """A classifier whose network scores every class.

    Attributes:
        classes_: the labels, sorted (Q,).
    """

    classes_: np.ndarray

    def decision_function(self, X: Any) -> np.ndarray:
        """The network's scores (samples, Q); for two classes second less first (samples,)."""
        outputs = self._outputs(X)
        return outputs[:, 1] - outputs[:, 0] if len(self.classes_) == 2 else outputs

    def predict(self, X: Any) -> np.ndarray:
        """The label of the highest score (samples,)."""
        best = self._outputs(X).argmax(1)
        return self.classes_[best]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy, from 0 to 1.

        Raises:
            DataError: y holds labels that `fit` never saw, which no prediction could match.
        """
        check_is_fitted(self, "net_")
        unseen = np.setdiff1d(np.unique(labels_of(y)), self.classes_)
        if len(unseen):
            raise DataError(
                f"y holds labels that were not there in fit: {', '.join(map(repr, unseen.tolist()[:5]))}.",
                "Fit on data that holds every class, or leave these samples out.",
            )
        return float(accuracy_score(y, self.predict(X), sample_weight=sample_weight))

    def _indexed(self, X: np.ndarray, y: Any, classes: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Set the classes, those of y unless they are given; X, and for each sample the index of its class."""
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        self.classes_ = np.unique(y if classes is None else np.asarray(list(classes)))
        check_classes(self.classes_)
        return X, self._index(y)

    def _index(self, y: np.ndarray) -> np.ndarray:
        """For each label the index of its class.

        Raises:
            DataError: a label that is not among them.
        """
        index = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        wrong = self.classes_[index] != y
        if wrong.any():
            raise DataError(
                f"The data hold the label {y[wrong][0]!r}, which is not among the classes.", "Name every class."
            )
        return index


def check_classes(classes: np.ndarray) -> None:
    """Raises DataError where there are fewer than two."""
    if len(classes) < 2:
        raise DataError(f"y holds one class only: {classes.tolist()}.", "Give samples of at least two classes.")


def refuse_columns(y: Any) -> None:
    """Raises DataError where y has more than one column."""
    shape = getattr(y, "shape", ())
    if len(shape) > 1 and shape[1] > 1:
        raise DataError(
            f"y has {shape[1]} columns, and one label per sample is learned.",
            "Give one column; turn one-hot rows into labels with y.argmax(1).",
        )


def labels_of(y: Any) -> np.ndarray:
    """Labels as one flat array."""
    refuse_columns(y)
    return np.asarray(y).reshape(-1)


def in_our_words(check: Any) -> Any:
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
    """Rows of an array in the learner's type and on its device."""
    if isinstance(x, Tensor):
        return x.to(device, dtype)
    x = np.asarray(x)
    # torch warns about memory it may not write to; only such arrays (memory maps) are copied.
    return torch.from_numpy(x if x.flags.writeable else x.copy()).to(device, dtype)


def device_of(name: str) -> torch.device:
    """The device, checked to be there.

    Raises:
        InputError: it is not.
    """
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise InputError(f"There is no device '{name}'.", 'Choose "cpu" or "cuda".') from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("CUDA is not available to torch here.", 'Use device="cpu".')
    return device
