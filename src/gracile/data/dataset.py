"""One split of a data set as tensors, and the three splits together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch

from gracile.core.errors import DataError, InputError
from gracile.data.mapped import MappedRows
from gracile.data.source import chunk_rows


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split, whole on one device.

    Attributes:
        inputs: uint8 (n, c, h, w) images, or float32 (n, features). Where the whole is too large for memory it is a
            `MappedRows`, which indexes like the tensor and gathers from a file.
        labels: int64 (n,), each an index into `classes`.
        classes: class names.
        name: of the data set.
        note: what a reader of results must know, such as "images are JPEG-compressed".

    Raises:
        DataError: shapes or types do not fit together.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]
    name: str
    note: str = ""

    def __post_init__(self) -> None:
        images = self.inputs.dtype == torch.uint8 and self.inputs.ndim == 4
        features = self.inputs.dtype == torch.float32 and self.inputs.ndim == 2
        if not (images or features):
            raise DataError(
                f"The inputs of '{self.name}' are {self.inputs.dtype} of shape {tuple(self.inputs.shape)}.",
                "Give images as uint8 (n, c, h, w) or features as float32 (n, features).",
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.inputs.shape[:1]:
            raise DataError(
                f"The labels of '{self.name}' are {self.labels.dtype} of shape {tuple(self.labels.shape)} "
                f"for {len(self.inputs)} inputs.",
                "Give one int64 label per input.",
            )

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def num_classes(self) -> int:
        """How many classes there are, samples of them or not."""
        return len(self.classes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input: (c, h, w) or (features,)."""
        return tuple(self.inputs.shape[1:])

    @property
    def is_image(self) -> bool:
        """Whether inputs are uint8 images, which batches scale to [0, 1]."""
        return self.inputs.dtype == torch.uint8

    @property
    def device(self) -> torch.device:
        """Where batches come out."""
        return self.labels.device

    def subset(self, indices: torch.Tensor | Sequence[int]) -> Dataset:
        """Some of the rows, in the order given.

        Args:
            indices: (k,) integers in [0, n), or a boolean mask (n,).
        """
        index = torch.as_tensor(indices, device=self.device)
        index = index.nonzero().flatten() if index.dtype == torch.bool else index.long()
        inputs = self.inputs.take(index) if isinstance(self.inputs, MappedRows) else self.inputs[index]
        return replace(self, inputs=cast(torch.Tensor, inputs), labels=self.labels[index])

    def to(self, device: torch.device | str) -> Dataset:
        """The same split on another device."""
        return replace(self, inputs=self.inputs.to(device), labels=self.labels.to(device))

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of each channel of the images scaled to [0, 1], or of each feature as it stands.

        Returns:
            two float32 tensors, (c,) or (features,), on the data's device, computed in float64 by chunks; the deviation
            is that of the population (divisor n), 0 for a constant feature.

        Raises:
            DataError: there are no rows.
        """
        if len(self) == 0:
            raise DataError(f"The data set '{self.name}' has no rows to take statistics of.", "Give it at least one.")
        mean, variance = self._moments_of_pixels() if self.is_image else self._moments_of_features()
        deviation = variance.sqrt()
        # What the mean's own roundings make of a constant feature.
        return mean.float(), deviation.masked_fill(deviation <= 1e-12 * mean.abs(), 0.0).float()

    def _moments_of_pixels(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums of bytes and of their squares are whole numbers far below 2^53: one pass is exact."""
        count = len(self) * self.input_shape[1] * self.input_shape[2]
        total = torch.zeros(self.input_shape[0], dtype=torch.float64, device=self.device)
        squares = torch.zeros_like(total)
        for chunk in self._chunks():
            values = chunk.double()
            total += values.sum((0, 2, 3))
            squares += values.square_().sum((0, 2, 3))
        mean = total / count
        return mean / 255, (squares / count - mean.square()).clamp_(min=0) / 255**2

    def _moments_of_features(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Two passes: mean square less squared mean would lose all digits of a feature far from 0."""
        mean = torch.zeros(self.input_shape, dtype=torch.float64, device=self.device)
        for chunk in self._chunks():
            mean += chunk.double().sum(0) / len(self)
        variance = torch.zeros_like(mean)
        for chunk in self._chunks():
            variance += (chunk.double() - mean).square_().sum(0) / len(self)
        return mean, variance

    def _chunks(self) -> Iterator[torch.Tensor]:
        rows = chunk_rows(self.input_shape, 8)
        for start in range(0, len(self), rows):
            yield self.inputs[start : start + rows]


@dataclass(frozen=True, eq=False)
class Splits:
    """The three splits of a data set.

    Attributes:
        train: what is trained on.
        validation: what decides; possibly empty.
        test: what is read once, at the end.
        told: what was read as what, and what was left out, a sentence each.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    told: tuple[str, ...] = ()


def check_data(data: object, kind: type[Dataset] | type[Splits] = Splits) -> None:
    """Refuse what is neither loaded nor gathered from memory.

    Args:
        data: given by a user.
        kind: what it has to be.

    Raises:
        InputError: it is something else; the remedy says how to make it.
    """
    if not isinstance(data, kind):
        split = ".test" if kind is Dataset else ""
        made = f"gracile.data.splits((x, y)){split}, or gracile.data.load(path){split}"
        raise InputError(
            f"The data are of type {type(data).__name__}, not gracile.data.{kind.__name__}.",
            f"Give {f'its {split}' if isinstance(data, Splits) else made}.",
        )
