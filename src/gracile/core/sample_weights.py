"""Weights of samples and of classes, as scikit-learn's estimators take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from gracile.core.errors import DataError, InputError


def check_weights(w: Any, samples: int) -> np.ndarray:
    """Weights of samples (samples,), float64.

    Raises:
        DataError: another shape, NaN, or some below 0.
    """
    w = np.asarray(w.detach().cpu().numpy() if isinstance(w, Tensor) else w, dtype=np.float64)
    if w.ndim == 0:
        w = np.full(samples, float(w))
    if w.shape != (samples,):
        raise DataError(f"sample_weight has the shape {w.shape}.", f"Give one number per sample, ({samples},).")
    if not (np.isfinite(w).all() and (w >= 0).all()):
        raise DataError("sample_weight holds NaN, infinity or negative numbers.", "Give numbers from 0 up.")
    return w


def present(w: np.ndarray) -> np.ndarray:
    """Which samples have a weight above 0 (samples,); one of no weight is no sample.

    Raises:
        DataError: none has.
    """
    found = w > 0
    if not found.any():
        raise DataError("All weights are zero.", "Give at least some samples a weight above 0.")
    return found


def weights_of_classes(
    given: Mapping[Any, float] | str, index: np.ndarray, classes: np.ndarray, weights: np.ndarray | None
) -> np.ndarray:
    """A weight for each class (Q,).

    Args:
        given: "balanced" (classes of equal weight in sum), or a weight for each label.
        index: of each sample's class (samples,).
        classes: the labels (Q,).
        weights: of the samples (samples,), None where all are 1.

    Raises:
        InputError: neither, or a label that is not there.
    """
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
        there = np.unique(index)
        found[there] = compute_class_weight("balanced", classes=there, y=index)
        return found
    sums = np.bincount(index, weights, minlength=len(classes))
    return weights.sum() / (len(classes) * np.where(sums > 0, sums, 1.0))
