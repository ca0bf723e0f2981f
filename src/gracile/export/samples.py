"""Inputs as onnxruntime takes them: examples, streamed calibration batches, labelled batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gracile.core.errors import DataError, InputError
from gracile.data import Dataset, batches

# Samples a forward pass where a whole tensor or data set is given: bounds memory, changes no result.
CHUNK = 100

Feed = dict[str, np.ndarray]


def input_names(count: int) -> list[str]:
    """``input``, ``input_1``, ..."""
    return ["input" if not number else f"input_{number}" for number in range(count)]


def as_examples(example: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The example as a tuple of CPU tensors.

    Raises:
        InputError: not tensors, no samples, or different numbers of samples.
    """
    examples = (
        (example,) if isinstance(example, Tensor) else tuple(example) if isinstance(example, list | tuple) else ()
    )
    if not examples or not all(isinstance(one, Tensor) for one in examples):
        raise InputError(
            f"The example is {type(example).__name__}, not a tensor or a tuple of tensors.",
            "Give one batch of inputs, such as torch.zeros(1, 3, 32, 32).",
        )
    sizes = {len(one) if one.dim() else 0 for one in examples}
    if len(sizes) > 1 or sizes == {0}:
        raise InputError(
            f"The example's shapes {[tuple(one.shape) for one in examples]} do not begin with one number of samples.",
            "Give a batch: the first dimension counts samples.",
        )
    return tuple(one.detach().cpu() for one in examples)


def feed(tensors: Sequence[Tensor]) -> Feed:
    """What ``InferenceSession.run`` takes."""
    return {
        name: np.ascontiguousarray(tensor.detach().cpu().numpy())
        for name, tensor in zip(input_names(len(tensors)), tensors, strict=True)
    }


class Calibration:
    """Calibration inputs, streamed batch by batch and checked.

    Args:
        source: a tensor of inputs, a data set, or an iterable of batches; a batch is a tensor, or a tuple of the
            network's inputs with or without labels behind them.
        examples: inputs of the right shape and type.

    Attributes:
        samples: how many were read so far.
    """

    def __init__(self, source: Tensor | Dataset | Iterable[Any], examples: Sequence[Tensor]) -> None:
        self.samples = 0
        self._batches = _stream(source)
        self._examples = examples
        self._feeds = self._read()

    def _read(self) -> Iterator[Feed]:
        for batch in self._batches:
            inputs, _ = split(batch, self._examples, labels=False)
            if not all(bool(torch.isfinite(one).all()) for one in inputs if one.is_floating_point()):
                raise DataError(
                    f"The calibration data hold NaN or infinity after {self.samples} samples.", "Remove such samples."
                )
            self.samples += len(inputs[0])
            yield feed(inputs)

    def get_next(self) -> Feed | None:
        """The next batch, None at the end: the reader protocol of onnxruntime."""
        return next(self._feeds, None)


def _stream(source: Tensor | Dataset | Iterable[Any]) -> Iterator[Any]:
    if isinstance(source, Tensor):
        if not source.dim() or not len(source):
            raise DataError("The calibration data are empty.", "Give some hundred typical inputs.")
        return iter(source.split(CHUNK))
    if isinstance(source, Dataset):
        if not len(source):
            raise DataError(f"The calibration data '{source.name}' are empty.", "Give some hundred typical inputs.")
        return (x for x, _ in batches(source, CHUNK))
    if not isinstance(source, Iterable):
        raise InputError(
            f"int8 is {type(source).__name__}, not calibration data.",
            "Give a tensor of inputs, a gracile data set, or an iterable of batches; None leaves the file in float32.",
        )
    return iter(source)


def split(batch: Any, examples: Sequence[Tensor], *, labels: bool) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """A batch as (inputs, labels).

    Args:
        batch: a tensor, or a tuple of the network's inputs and possibly labels.
        examples: inputs of the right shapes, types and number.
        labels: whether labels must be there.

    Raises:
        InputError: other shapes, no labels where they are needed.
    """
    parts = (batch,) if isinstance(batch, Tensor) else tuple(batch) if isinstance(batch, list | tuple) else ()
    count = len(examples)
    tensors = all(isinstance(one, Tensor) for one in parts)
    if not tensors or len(parts) not in ((count + 1,) if labels else (count, count + 1)):
        raise InputError(
            f"A batch holds {len(parts)} tensors and {count} inputs{' and labels' if labels else ''} are needed.",
            "Give a tensor of inputs, or a tuple such as (inputs, labels).",
        )
    for given, example in zip(parts[:count], examples, strict=True):
        if given.shape[1:] != example.shape[1:] or given.dim() != example.dim():
            raise InputError(
                f"A batch has the shape {tuple(given.shape)} where the example has {tuple(example.shape)}.",
                "Give samples of the example's shape.",
            )
    inputs = tuple(given.to(example.dtype) for given, example in zip(parts[:count], examples, strict=True))
    return inputs, parts[count] if len(parts) > count else None


def labelled(
    source: Dataset | Iterable[Any], examples: Sequence[Tensor]
) -> Callable[[], Iterator[tuple[Feed, np.ndarray]]]:
    """Labelled batches that can be gone through again and again.

    Raises:
        InputError: an iterator, which could be gone through only once.
    """
    if isinstance(source, Dataset):
        return lambda: ((feed(_inputs(batch, examples)), batch[1].cpu().numpy()) for batch in batches(source, CHUNK))
    if isinstance(source, Iterator) or not isinstance(source, Iterable):
        raise InputError(
            f"The validation data are {type(source).__name__}, which cannot be gone through more than once.",
            "Give a gracile data set, a DataLoader or a list of (inputs, labels).",
        )
    return lambda: _labelled(source, examples)


def _inputs(batch: Any, examples: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return split(batch, examples, labels=True)[0]


def _labelled(source: Iterable[Any], examples: Sequence[Tensor]) -> Iterator[tuple[Feed, np.ndarray]]:
    for batch in source:
        inputs, y = split(batch, examples, labels=True)
        assert y is not None
        yield feed(inputs), y.cpu().numpy()
