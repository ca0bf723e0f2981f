"""Data that are in memory already: pairs of arrays, tensors or frames, and PyTorch's data sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.data import Dataset as Samples

from gracile.core.errors import DataError, InputError
from gracile.data.arrays import Rows, opened
from gracile.data.source import Missing, Opened

PAIRS = "Give a pair (x, y) of arrays or tensors, or a torch.utils.data.Dataset of such pairs."


@dataclass(frozen=True)
class _InMemory:
    """An array as `gracile.data.arrays.Rows`."""

    name: str
    where: str
    array: np.ndarray
    files: tuple[Path, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    def whole(self) -> np.ndarray:
        return self.array

    def chunks(self, size: int) -> Iterator[np.ndarray]:
        return (self.array[start : start + size] for start in range(0, len(self.array), size))


def open_memory(name: str, given: Mapping[str, Any], classes: Sequence[str] | None, missing: Missing) -> Opened:
    """Splits in memory as a source.

    Args:
        name: of the data set.
        given: split, "train" among them, to a pair (x, y), a data set of PyTorch, a loader of one, or a list of samples.
        classes: their names; those that PyTorch's data set declares by default.
        missing: what becomes of empty cells.

    Raises:
        InputError: it is nothing of the kind.
        DataError: shapes, types or values do not fit.
    """
    inputs: dict[str, Rows] = {}
    labels: dict[str, Rows] = {}
    for split, data in given.items():
        where = f"the {split} data"
        x, y, declared = _arrays(data, where)
        inputs[split], labels[split] = _InMemory("x", where, x), _InMemory("y", where, y)
        classes = declared if classes is None else classes
    names = None if classes is None else tuple(map(str, classes))
    return opened(name, name, inputs, labels, names, missing)


def _arrays(data: Any, where: str) -> tuple[np.ndarray, np.ndarray, Sequence[str] | None]:
    """Inputs, labels, and the classes' names where the data declare them."""
    if isinstance(data, DataLoader):
        data = data.dataset
    if isinstance(data, tuple) and len(data) == 2:
        return _array(data[0]), _array(data[1]), None
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        return _array(data.tensors[0]), _array(data.tensors[1]), None
    if isinstance(data, IterableDataset) or not isinstance(data, (Samples, list)):
        what = "are an IterableDataset, which has no length" if isinstance(data, IterableDataset) else "are no samples"
        raise InputError(f"{where[0].upper()}{where[1:]}, a {type(data).__name__}, {what}.", PAIRS)
    samples = [_sample(cast(Any, data)[row], row, where) for row in range(len(cast(Any, data)))]
    if not samples:
        raise DataError(f"{where[0].upper()}{where[1:]} have no rows.", "Give it samples.")
    shapes = {x.shape for x, _ in samples}
    if len(shapes) > 1:
        listed = ", ".join(str(shape) for shape in sorted(shapes)[:4])
        raise DataError(
            f"The samples of {where} have different shapes: {listed}.",
            "Bring them to one, as by a transform that resizes.",
        )
    declared = getattr(data, "classes", None)
    return (
        np.stack([x for x, _ in samples]),
        np.stack([y for _, y in samples]),
        declared if isinstance(declared, (list, tuple)) else None,
    )


def _sample(sample: Any, row: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(sample, (tuple, list)) or len(sample) != 2:
        raise InputError(f"Sample {row} of {where} is a {type(sample).__name__}, not a pair of input and class.", PAIRS)
    return _array(sample[0]), _array(sample[1])


def _array(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)
