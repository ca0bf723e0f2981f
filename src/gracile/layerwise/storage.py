"""Estimators as one safetensors file: tensors, and everything else as JSON in its header. Nothing is pickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from gracile.core.errors import InputError, StorageError, pick
from gracile.core.estimators import device_of
from gracile.core.files import write_atomically
from gracile.layerwise.dkn import DKNNet
from gracile.layerwise.estimator import Classifier, Learner
from gracile.layerwise.flow import chain
from gracile.layerwise.ssfn import SSFNNet
from gracile.layerwise.table import ESTIMATORS

FORMAT = "gracile-layerwise-1"


def save(estimator: Learner, path: Path) -> None:
    """Write a fitted estimator; see `load`.

    Raises:
        StorageError: the file cannot be written.
    """
    check_is_fitted(estimator, "net_")
    fitted = {
        name: _plain(value)
        for name, value in vars(estimator).items()
        if (name.endswith("_") and not name.endswith("__") and name != "net_") or name == "_flat"
    }
    header = {
        "format": FORMAT,
        "class": type(estimator).__name__,
        "parameters": json.dumps({name: _plain(value) for name, value in estimator.get_params().items()}),
        "fitted": json.dumps(fitted),
        "label_dtype": estimator.classes_.dtype.str if isinstance(estimator, Classifier) else "",
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in estimator.net_.state_dict().items()}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=header))


def load(path: str | Path, device: str = "cpu") -> Any:
    """Read an estimator that `save` wrote; it predicts as the saved one does.

    Args:
        path: the file.
        device: where it predicts.

    Raises:
        StorageError: no such file, or not one of these.
    """
    try:
        with safe_open(path, framework="pt", device=str(device_of(device))) as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path} cannot be read: {error}.", "Name a file that an estimator's save wrote.") from error
    if header.get("format") != FORMAT:
        raise StorageError(
            f"{path} holds no estimator of gracile.layerwise.", "Name a file that an estimator's save wrote."
        )
    parameters = json.loads(header["parameters"])
    if isinstance(parameters.get("image_shape"), list):
        parameters["image_shape"] = tuple(parameters["image_shape"])
    estimator: Any = pick(ESTIMATORS, header["class"], "estimator")(**{**parameters, "device": device})
    for name, value in json.loads(header["fitted"]).items():
        setattr(estimator, name, np.array(value) if name in ("target_mean_", "target_scale_") else value)
    if header["label_dtype"]:
        estimator.classes_ = np.array(estimator.classes_, dtype=np.dtype(header["label_dtype"]))
    if hasattr(estimator, "feature_names_in_"):
        estimator.feature_names_in_ = np.array(estimator.feature_names_in_, dtype=object)
    estimator.net_ = _network(header["class"], tensors)
    return estimator


def _network(kind: str, tensors: dict[str, Tensor]) -> nn.Module:
    if kind.startswith("SSFN"):
        return SSFNNet(_list(tensors, "outputs"), _list(tensors, "randoms"))
    if kind.startswith("DKN"):
        return DKNNet(
            tensors["landmarks"],
            _list(tensors, "coefficients"),
            _list(tensors, "randoms"),
            tensors["scales"],
            tensors["gammas"],
        )
    places = sorted({int(name.partition(".")[0]) for name in tensors})
    return chain([(tensors[f"{place}.weight"], tensors.get(f"{place}.bias")) for place in places])


def _list(tensors: dict[str, Tensor], name: str) -> list[Tensor]:
    return [tensors[f"{name}.{i}"] for i in range(sum(key.startswith(f"{name}.") for key in tensors))]


def _plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, np.ndarray):
        if value.dtype == object and not all(isinstance(entry, str) for entry in value):
            raise InputError(
                "The labels are neither numbers nor strings.", "Fit on numbers or strings to save the estimator."
            )
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.Size | tuple):
        return list(value)
    return value
