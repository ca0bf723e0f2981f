"""Fitted estimators as one safetensors file: tensors, and everything else as JSON in its header. Nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.utils.validation import check_is_fitted

from gracile.core.errors import InputError, StorageError, nearest
from gracile.core.files import write_atomically
from gracile.core.tensor_files import read_tensors, reading

FORMAT = "gracile-estimator-1"

Some = TypeVar("Some")


def write(estimator: Any, path: Path) -> None:
    """Write a fitted `NetworkEstimator`; see `read`.

    Raises:
        InputError: its labels are neither numbers nor strings.
        StorageError: the file cannot be written.
    """
    check_is_fitted(estimator, "net_")
    header = {
        "format": FORMAT,
        "class": type(estimator).__name__,
        "parameters": json.dumps(_plain(estimator.get_params(deep=False))),
        "fitted": json.dumps(_plain(estimator._fitted())),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in estimator.net_.state_dict().items()}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=header))


def read(path: Path, table: Mapping[str, type[Some]], device: torch.device) -> Some:
    """Read an estimator that `write` wrote.

    Args:
        path: the file.
        table: the classes it may be of, by their names.
        device: where it predicts.

    Raises:
        StorageError: no such file, or not one of these.
    """
    remedy = "Name a file that an estimator's save wrote."
    header, tensors = read_tensors(path, remedy, device)
    if header.get("format") != FORMAT:
        raise StorageError(f"{path} holds no estimator that this version reads.", remedy)
    with reading(path, remedy):
        named = str(header["class"])
        if named not in table:
            shown = named if named.isprintable() else repr(named)
            raise StorageError(f"{path} holds a {shown}.", nearest(named, table))
        estimator: Any = table[named](**{**_rich(json.loads(header["parameters"])), "device": str(device)})
        fitted = _rich(json.loads(header["fitted"]))
        for name, value in fitted.items():
            # As scikit-learn names what was fitted: a file must put nothing else on the object.
            if not (name.isidentifier() and name.endswith("_") and not name.startswith("_")):
                raise StorageError(f"{path} holds {name!r}, which no estimator has.", remedy)
            setattr(estimator, name, value)
        estimator.net_ = estimator._restored(fitted, tensors).to(device)
        return estimator


def _plain(value: Any) -> Any:
    """A value as JSON can hold it; what JSON does not know is wrapped under its name."""
    if isinstance(value, dict):
        # Keys may be labels, which JSON would turn into strings.
        return {"items": [[_plain(key), _plain(entry)] for key, entry in value.items()]}
    if isinstance(value, np.ndarray):
        if value.dtype == object and not all(isinstance(entry, str | int | float) for entry in value.flat):
            raise InputError(
                "The labels are neither numbers nor strings.", "Fit on numbers or strings to save the estimator."
            )
        # longdouble has no number of Python's; nothing that is learned keeps more digits than float64.
        array = value.astype(np.float64) if value.dtype.char == "g" else value
        return {"array": array.tolist(), "dtype": array.dtype.str}
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, tuple):
        return {"tuple": [_plain(entry) for entry in value]}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return value


def _rich(value: Any) -> Any:
    """What `_plain` was given."""
    if isinstance(value, list):
        return [_rich(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"array", "dtype"}:
        return np.array(value["array"], dtype=np.dtype(value["dtype"]))
    if value.keys() == {"tuple"}:
        return tuple(_rich(entry) for entry in value["tuple"])
    return {_rich(key): _rich(entry) for key, entry in value["items"]}
