"""Right answers of a file, counted by onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gracile.core.errors import DataError, NonFiniteError
from gracile.data import Dataset
from gracile.export import samples
from gracile.export.sessions import run, session


@dataclass(frozen=True)
class Accuracy:
    """How often the largest output is the label's.

    Attributes:
        correct: samples whose largest output is the label.
        samples: looked at.
    """

    correct: int
    samples: int

    @property
    def percent(self) -> float:
        """Share of right answers in per cent."""
        return 100 * self.correct / self.samples

    def __str__(self) -> str:
        return f"{self.percent:.2f} % of {self.samples:,}"


def accuracy(path: str | Path, data: Dataset | Iterable[Any], example: samples.Example | None = None) -> Accuracy:
    """Accuracy of an ONNX file.

    Args:
        path: the file; its first output is logits (n, classes).
        data: a data set, or an iterable of (inputs, labels), or of dictionaries of inputs by name and ``labels``.
        example: a batch of inputs as for `gracile.export_onnx`; needed unless `data` is a data set.

    Raises:
        DataError: there are no samples.
        InputError: shapes that do not fit.
        NonFiniteError: outputs that are not finite.
    """
    if example is None and isinstance(data, Dataset):
        example = data.inputs[:1].float() if len(data) else torch.zeros(1, *data.input_shape)
    if example is None:
        raise DataError(
            "Without a data set of gracile's the shape of the inputs is not known.", "Pass example=one batch of inputs."
        )
    examples = samples.as_examples(example)
    return measure(session(Path(path)), samples.labelled(data, examples))


def measure(loaded: Any, batches: Callable[[], Iterator[tuple[samples.Feed, np.ndarray]]]) -> Accuracy:
    """Accuracy of a loaded session over one pass."""
    correct = total = 0
    for inputs, labels in batches():
        logits = run(loaded, inputs)[0]
        if logits.ndim != 2 or len(logits) != len(labels):
            raise DataError(
                f"Accuracy needs logits (n, classes), and {len(labels)} samples gave the shape {logits.shape}.",
                "Leave the validation data out for networks that are not classifiers.",
            )
        if not np.isfinite(logits).all():
            raise NonFiniteError("The exported network's outputs are not finite.", "Mend the weights before exporting.")
        correct += int((logits.argmax(1) == labels).sum())
        total += len(labels)
    if not total:
        raise DataError("The validation data are empty.", "Give labelled samples, or none at all.")
    return Accuracy(correct, total)
