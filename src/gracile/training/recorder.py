"""What a record of a training run holds, and when one is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gracile.core.monitor import Monitor
from gracile.core.sparsifier import Sparsifier, sparse_so_far
from gracile.data import Dataset
from gracile.training.evaluation import evaluate
from gracile.training.objectives import Loss, LossObjective, Objective
from gracile.training.state import TrainingState

Observer = Monitor | Callable[[nn.Module], dict[str, float]]
"""A monitor, or a function from the network as it would be kept to numbers by name."""


class Recorder:
    """Makes the rows of a run's history.

    Args:
        model: what is trained.
        validation: what it is watched on; may be empty.
        sparsifier: see `gracile.fit`.
        objective: what is minimised; of a loss of outputs the validation loss is taken, else cross-entropy.
        observe: one observer or several.
        steps_per_epoch: batches per epoch.
        every: steps from one record to the next; None makes one at the end of each epoch.
        total: steps in all; the last one is always recorded.
    """

    def __init__(
        self,
        model: nn.Module,
        validation: Dataset,
        sparsifier: Sparsifier | None,
        objective: Objective,
        observe: Observer | Sequence[Observer],
        steps_per_epoch: int,
        every: int | None,
        total: int,
    ) -> None:
        self.model, self.validation, self.sparsifier = model, validation, sparsifier
        self.loss: Loss | None = objective.function if isinstance(objective, LossObjective) else None
        self.observers = list(observe) if isinstance(observe, Sequence) else [observe]
        self.monitors = [one for one in self.observers if isinstance(one, Monitor)]
        self.steps_per_epoch, self.every, self.total = steps_per_epoch, every or steps_per_epoch, total

    def due(self, step: int) -> bool:
        """Whether a step, counted from 1 since the start, is recorded."""
        return step % self.every == 0 or step == self.total

    def begin(self, optimizer: Optimizer) -> None:
        """Show the monitors the optimiser."""
        for monitor in self.monitors:
            monitor.begin(optimizer)

    def end(self) -> None:
        """Let the monitors go."""
        for monitor in self.monitors:
            monitor.end()

    def before_step(self, x: Tensor, y: Tensor) -> None:
        """Show the monitors the batch of a step that is recorded."""
        for monitor in self.monitors:
            monitor.before_step(x, y)

    def after_step(self) -> None:
        """Show the monitors the network after a step."""
        for monitor in self.monitors:
            monitor.after_step(self.model)

    def row(self, position: TrainingState, *, first: bool) -> dict[str, Any]:
        """A record, of the step just taken.

        Args:
            position: with the sums since the last record, before the epoch is counted as done.
            first: whether it is the run's first record, which also tells how the monitors' numbers are drawn.
        """
        step = position.taken(self.steps_per_epoch)
        epochs, rest = divmod(step, self.steps_per_epoch)
        row: dict[str, Any] = {
            "epoch": epochs + rest / self.steps_per_epoch if rest else epochs,
            "step": step,
            "train_loss": position.loss.item() / position.seen,
            "train_accuracy": position.correct.item() / position.seen,
        }
        if len(self.validation):
            watched = evaluate(self.model, self.validation, loss=self.loss)
            row.update(val_loss=watched.loss, val_accuracy=watched.accuracy)
        kept = self.model
        if self.sparsifier is not None:
            kept = sparse_so_far(self.sparsifier)
            summary = self.sparsifier.summary()
            if len(self.validation):
                sparse = evaluate(kept, self.validation, loss=self.loss)
                row.update(sparse_val_loss=sparse.loss, sparse_val_accuracy=sparse.accuracy)
            row.update(sparsity=summary.sparsity, nonzero=summary.nonzero)
            if summary.channel_sparsity is not None:
                row.update(channel_sparsity=summary.channel_sparsity)
        for observer in self.observers:
            row.update(observer.observe(kept) if isinstance(observer, Monitor) else observer(kept))
        series = {key: one for monitor in self.monitors for key, one in monitor.described().items()}
        if first and series:
            row["series"] = series
        return row


def told(row: dict[str, Any]) -> str:
    """A record in the few words that fit behind a progress bar."""
    text = f"val {100 * row['val_accuracy']:.2f} %" if "val_accuracy" in row else f"loss {row['train_loss']:.4g}"
    if "sparse_val_accuracy" in row:
        text += f", sparse {100 * row['sparse_val_accuracy']:.2f} %"
        share = row.get("channel_sparsity", row["sparsity"])
        text += f" at {100 * share:.1f} % zero {'channels' if 'channel_sparsity' in row else 'weights'}"
    if "macs_left" in row:
        text += f", {100 * row['macs_left']:.1f} % of multiply-adds left"
    return text
