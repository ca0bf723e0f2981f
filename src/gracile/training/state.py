"""Where a training run stands, what it has recorded, and whether its numbers are still finite."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gracile.core.errors import NonFiniteError
from gracile.core.runs import RunFolder
from gracile.training.checkpoints import CHECKPOINT
from gracile.training.precision import Taken


@dataclass
class History:
    """What happened.

    Attributes:
        rows: one per record: ``epoch`` (a fraction within one), ``step``, ``lr`` (of the last step), ``train_loss`` and
            ``train_accuracy`` (means over the steps since the last record), ``val_loss, val_accuracy``, ``seconds``
            and, with a sparsifier, ``sparse_val_loss, sparse_val_accuracy, sparsity, channel_sparsity, nonzero``;
            accuracies and shares in [0, 1]. What monitors record joins them; the first row that holds a monitor's
            numbers also tells, under ``series``, how each is drawn.
        seconds: spent training and evaluating, over all sittings.
        precision: of the passes, ``float32`` or ``bf16``; None before the first step.
        compiled: whether the passes were; likewise.
        lean: share of the multiply-adds that passes take since the choice is final, 1 where they leave nothing out; None before it.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    precision: Taken | None = None
    compiled: bool | None = None
    lean: float | None = None


@dataclass
class TrainingState:
    """Where the loop stands, and what it has summed since the last record.

    Attributes:
        epoch: whole epochs done.
        step: steps done of the next one.
        loss: sum over samples, float64.
        correct: right answers, int64.
        seen: samples.
    """

    epoch: int
    step: int
    loss: Tensor
    correct: Tensor
    seen: int

    @staticmethod
    def at(device: torch.device, epoch: int, step: int = 0) -> TrainingState:
        """A place with nothing summed."""
        zero = torch.zeros((), dtype=torch.float64, device=device)
        return TrainingState(epoch, step, zero, torch.zeros((), dtype=torch.int64, device=device), 0)

    def without_sums(self) -> TrainingState:
        """The same place with nothing summed: what all ranks have summed so far is rank 0's."""
        return TrainingState.at(self.loss.device, self.epoch, self.step)

    def taken(self, steps_per_epoch: int) -> int:
        """Steps since the start of training."""
        return self.epoch * steps_per_epoch + self.step

    @property
    def sums(self) -> tuple[Tensor, Tensor, int]:
        """What it has summed: loss, right answers, samples."""
        return self.loss, self.correct, self.seen


def check_finite(position: TrainingState, model: nn.Module, x: Tensor | None, place: RunFolder | None) -> None:
    """Stop at a loss that is no longer a number, and say where it began."""
    if torch.isfinite(position.loss):
        return
    if x is not None and not torch.isfinite(x).all():
        cause = "the batch holds NaN or infinity"
    else:
        broken = [name for name, tensor in model.named_parameters() if not torch.isfinite(tensor).all()]
        cause = f"'{broken[0]}' holds NaN or infinity" if broken else "its weights are still finite"
    raise _not_finite(
        f"The loss is no longer finite in epoch {position.epoch + 1}, step {position.step}: {cause}.", place
    )


def check_weights(model: nn.Module, position: TrainingState, place: RunFolder | None) -> None:
    """A checkpoint must never replace a good one with weights that are not numbers."""
    for name, tensor in model.named_parameters():
        if not torch.isfinite(tensor).all():
            raise _not_finite(
                f"'{name}' is no longer finite after epoch {position.epoch}, step {position.step}.", place
            )


def check_row(row: dict[str, Any], place: RunFolder | None) -> None:
    """A record holds finite numbers only: weights may still be finite where what is measured of them is not."""
    for key, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise _not_finite(f"'{key}' is no longer finite after step {row['step']}.", place)


def _not_finite(cause: str, place: RunFolder | None) -> NonFiniteError:
    kept = ""
    if place is not None and (place.path / CHECKPOINT).exists():
        kept = f" The last good checkpoint is {place.path / CHECKPOINT}."
    return NonFiniteError(cause, f"Lower lr, or start with a warm-up.{kept}")
