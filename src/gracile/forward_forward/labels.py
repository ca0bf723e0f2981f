"""How a label is shown to the network together with its input: one row each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gracile.core.errors import DataError, InputError


@dataclass(frozen=True)
class Place:
    """Where the one-hot label stands in a row.

    Attributes:
        overlay: whether it replaces the first features instead of following the last one.
    """

    overlay: bool

    def columns(self, features: int, num_classes: int) -> slice:
        """The label's columns.

        Raises:
            InputError: an overlay of more labels than there are features to replace.
        """
        if self.overlay and num_classes > features:
            raise InputError(
                f"{num_classes} labels do not fit into {features} features.", "Use label='append', which adds columns."
            )
        return slice(0, num_classes) if self.overlay else slice(features, features + num_classes)

    def room(self, x: Tensor, num_classes: int) -> Tensor:
        """Copy x (b, features) to new rows with zeros where the label goes."""
        columns = self.columns(x.shape[1], num_classes)
        if not self.overlay:
            return torch.nn.functional.pad(x, (0, num_classes))
        x = x.clone()
        x[:, columns] = 0
        return x


LABELS = {"append": Place(overlay=False), "overlay": Place(overlay=True)}


def write_labels(x: Tensor, y: Tensor, num_classes: int, *, value: float = 1.0, label: str = "overlay") -> Tensor:
    """Inputs with their labels written in.

    Args:
        x: (b, features).
        y: int64 (b,), from 0 to num_classes - 1.
        num_classes: how many labels there are.
        value: of the one that is hot; the brightest pixel's, for images.
        label: a row of `LABELS`.

    Returns:
        (b, features), or (b, features + num_classes) where they are appended.

    Raises:
        InputError: they do not fit.
        DataError: a label out of range.
    """
    place = LABELS[label]
    check_labels(y, num_classes)
    rows = place.room(x, num_classes)
    rows[torch.arange(len(x), device=x.device), y + place.columns(x.shape[1], num_classes).start] = value
    return rows


def check_labels(y: Tensor, num_classes: int) -> None:
    """Raises DataError where labels are out of range."""
    if len(y) and (int(y.min()) < 0 or int(y.max()) >= num_classes):
        raise DataError(
            f"The labels run from {int(y.min())} to {int(y.max())}, and there are {num_classes} classes.",
            "Number the classes from 0.",
        )


def random_wrong(y: Tensor, num_classes: int, generator: torch.Generator | None = None) -> Tensor:
    """A wrong label for each right one, every wrong one as likely.

    Args:
        y: int64 (b,).
        num_classes: at least 2.
        generator: drawn from; None for torch's own, as dropout does.
    """
    shift = torch.randint(1, num_classes, y.shape, generator=generator, device=y.device)
    return (y + shift) % num_classes
