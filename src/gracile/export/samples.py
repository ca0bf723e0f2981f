"""Inputs as onnxruntime takes them: examples, streamed calibration batches, labelled batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gracile.core.errors import DataError, InputError
from gracile.data import Dataset, batches

# Samples a forward pass where a whole tensor or data set is given: bounds memory, changes no result.
CHUNK = 100

Feed = dict[str, np.ndarray]
Example = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
# What labels are called in a batch of inputs by name.
LABELS = ("labels", "label", "y")


@dataclass(frozen=True)
class Inputs:
    """One batch of inputs, and what a file calls them.

    Attributes:
        tensors: on the CPU, each (n, ...).
        names: as many, ``input``, ``input_1``, ..., or those the example gave.
        by_name: whether the model takes them by name.
    """

    tensors: tuple[Tensor, ...]
    names: tuple[str, ...]
    by_name: bool = False

    def map(self, function: Callable[[Tensor], Tensor]) -> Inputs:
        """The same with each tensor changed."""
        return replace(self, tensors=tuple(function(one) for one in self.tensors))


def as_examples(example: Example) -> Inputs:
    """The example as CPU tensors with names.

    Raises:
        InputError: not tensors, no samples, or different numbers of samples.
    """
    examples: Any
    if isinstance(example, Mapping):
        names, examples = tuple(map(str, example)), tuple(example.values())
    else:
        examples = (example,) if isinstance(example, Tensor) else example if isinstance(example, list | tuple) else ()
        names = tuple("input" if not number else f"input_{number}" for number in range(len(examples)))
    if not examples or not all(isinstance(one, Tensor) for one in examples):
        raise InputError(
            f"The example is {type(example).__name__}, not a tensor, nor a tuple or dictionary of tensors.",
            "Give one batch of inputs, such as torch.zeros(1, 3, 32, 32).",
        )
    sizes = {len(one) if one.dim() else 0 for one in examples}
    if len(sizes) > 1 or sizes == {0}:
        raise InputError(
            f"The example's shapes {[tuple(one.shape) for one in examples]} do not begin with one number of samples.",
            "Give a batch: the first dimension counts samples.",
        )
    return Inputs(tuple(one.detach().cpu() for one in examples), names, isinstance(example, Mapping))


def feed(inputs: Inputs) -> Feed:
    """What ``InferenceSession.run`` takes."""
    return {
        name: np.ascontiguousarray(tensor.detach().cpu().numpy())
        for name, tensor in zip(inputs.names, inputs.tensors, strict=True)
    }


class Calibration:
    """Calibration inputs, streamed batch by batch and checked.

    Args:
        source: a tensor of inputs, a data set, or an iterable of batches; a batch is a tensor, a tuple of the network's inputs
            with or without labels behind them, or a dictionary of inputs by name.
        examples: inputs of the right shape and type.

    Attributes:
        samples: how many were read so far.
    """

    def __init__(self, source: Tensor | Dataset | Iterable[Any], examples: Inputs) -> None:
        self.samples = 0
        self._batches = _stream(source)
        self._examples = examples
        self._feeds = self._read()

    def _read(self) -> Iterator[Feed]:
        for batch in self._batches:
            inputs, _ = split(batch, self._examples, labels=False)
            if not all(bool(torch.isfinite(one).all()) for one in inputs.tensors if one.is_floating_point()):
                raise DataError(
                    f"The calibration data hold NaN or infinity after {self.samples} samples.", "Remove such samples."
                )
            self.samples += len(inputs.tensors[0])
            yield feed(inputs)

    def get_next(self) -> Feed | None:
        """The next batch, None at the end: the reader protocol of onnxruntime."""
        return next(self._feeds, None)


def _stream(source: Any) -> Iterator[Any]:
    if isinstance(source, Tensor):
        if not source.dim() or not len(source):
            raise DataError("The calibration data are empty.", "Give some hundred typical inputs.")
        return iter(source.split(CHUNK))
    if isinstance(source, Dataset):
        if not len(source):
            raise DataError(f"The calibration data '{source.name}' are empty.", "Give some hundred typical inputs.")
        return (x for x, _ in batches(source, CHUNK))
    if isinstance(source, Mapping):  # one batch by name
        parts = [one.split(CHUNK) if isinstance(one, Tensor) and one.dim() else () for one in source.values()]
        if not all(parts):
            raise DataError("The calibration data hold something that is no tensor.", "Give tensors by name.")
        return (dict(zip(source, batch, strict=True)) for batch in zip(*parts, strict=True))
    if not isinstance(source, Iterable):
        raise InputError(
            f"int8 is {type(source).__name__}, not calibration data.",
            "Give a tensor of inputs, a gracile data set, or an iterable of batches; None leaves the file in float32.",
        )
    return iter(source)


def split(batch: Any, examples: Inputs, *, labels: bool) -> tuple[Inputs, Tensor | None]:
    """A batch as (inputs, labels).

    Args:
        batch: a tensor, a tuple of the network's inputs and possibly labels, or a dictionary of inputs by name and possibly labels.
        examples: inputs of the right shapes, types and number.
        labels: whether labels must be there.

    Raises:
        InputError: other shapes, no labels where they are needed.
    """
    parts: Any = _by_name(batch, examples, labels=labels) if isinstance(batch, Mapping) else batch
    parts = (parts,) if isinstance(parts, Tensor) else tuple(parts) if isinstance(parts, list | tuple) else ()
    count = len(examples.tensors)
    if len(parts) == 2 and isinstance(parts[0], Mapping):  # ({...}, labels)
        parts = (*_by_name(parts[0], examples, labels=False)[:count], parts[1])
    tensors = all(isinstance(one, Tensor) for one in parts)
    if not tensors or len(parts) not in ((count + 1,) if labels else (count, count + 1)):
        raise InputError(
            f"A batch holds {len(parts)} tensors and {count} inputs{' and labels' if labels else ''} are needed.",
            "Give a tensor of inputs, or a tuple such as (inputs, labels).",
        )
    for given, example in zip(parts[:count], examples.tensors, strict=True):
        if given.shape[1:] != example.shape[1:] or given.dim() != example.dim():
            raise InputError(
                f"A batch has the shape {tuple(given.shape)} where the example has {tuple(example.shape)}.",
                "Give samples of the example's shape.",
            )
    inputs = tuple(given.to(example.dtype) for given, example in zip(parts[:count], examples.tensors, strict=True))
    return replace(examples, tensors=inputs), parts[count] if len(parts) > count else None


def _by_name(batch: Mapping[str, Any], examples: Inputs, *, labels: bool) -> tuple[Any, ...]:
    """Inputs in the example's order, and labels behind them where there are any.

    Raises:
        InputError: an input or the labels are missing.
    """
    found = next((name for name in LABELS if name in batch and name not in examples.names), None)
    missing = [name for name in examples.names if name not in batch] or (["labels"] if labels and not found else [])
    if missing:
        raise InputError(
            f"A batch holds {', '.join(map(str, batch)) or 'nothing'}, and '{missing[0]}' is not among them.",
            f"Give a dictionary of {', '.join(examples.names)}{' and labels' if labels else ''}.",
        )
    return (*(batch[name] for name in examples.names), *([batch[found]] if found else []))


def labelled(source: Dataset | Iterable[Any], examples: Inputs) -> Callable[[], Iterator[tuple[Feed, np.ndarray]]]:
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


def _inputs(batch: Any, examples: Inputs) -> Inputs:
    return split(batch, examples, labels=True)[0]


def _labelled(source: Iterable[Any], examples: Inputs) -> Iterator[tuple[Feed, np.ndarray]]:
    for batch in source:
        inputs, y = split(batch, examples, labels=True)
        assert y is not None
        yield feed(inputs), y.cpu().numpy()
