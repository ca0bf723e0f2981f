"""How a recipe's arms are trained, and what that says turned into a schedule and an objective."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field
from torch import nn

from gracile.core.errors import InputError
from gracile.core.monitor import Monitor
from gracile.data import Dataset
from gracile.recipes.schema import Strict
from gracile.training import (
    BestRobust,
    CrossEntropy,
    History,
    Objective,
    Schedule,
    adversary,
    optimizer_factory,
    robust_monitors,
)  # fmt: skip
from gracile.training.compiled import Compile
from gracile.training.precision import Precision
from gracile.training.schedules import schedule_named


class AdversarialSettings(Strict):
    """Training on attacked samples.

    Attributes:
        method: a row of `gracile.training.ADVERSARIES`.
        options: what it takes: ``eps``, ``steps``, ...
    """

    method: str = "pgd"
    options: dict[str, Any] = Field(default_factory=dict)


class TrainingSettings(Strict):
    """How it is trained; the names are those of `gracile.fit`.

    Attributes:
        precision: ``float32``, ``bf16``, or ``auto``, with which the same recipe trains in bf16 on one machine and in float32 on another.
        compile: whether the passes go through ``torch.compile``; ``auto`` measures whether that pays.
        lean_passes: passes leave out what is removed, once the choice is final: ``auto`` where that pays, or false.
        decay: of the schedule ``diminishing``, ``lr / (1 + decay lr l)`` at step l; ``averaged`` belongs to adagrad.
        adversarial: attacks the batches of all arms that are not `natural`.
        checkpoint_seconds: at most this long between checkpoints; it changes no number.
        monitors: rows of `gracile.training.ROBUST_MONITORS` with their options, recorded each epoch.
        checkpoint: what is kept: the ``last`` epoch, or that of ``best-robust-validation`` accuracy, as the monitor ``best`` sees it
            (of averaged weights, where ``average`` stands beside it).
    """

    epochs: int = Field(ge=1)
    batch_size: int = Field(default=128, ge=1)
    optimizer: str = "sgd"
    lr: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0, allow_inf_nan=False)
    nesterov: bool = False
    schedule: Literal["constant", "milestones", "cosine", "diminishing", "averaged"] = "constant"
    milestones: list[float] = Field(default_factory=list)
    gamma: float = 0.1
    warmup: float = 0.0
    decay: float = 1e-3
    precision: Precision = "float32"
    compile: Compile = False
    lean_passes: Literal["auto", False] = "auto"
    adversarial: AdversarialSettings | None = None
    checkpoint_seconds: float = Field(60.0, ge=0)
    monitors: dict[str, dict[str, Any]] = Field(default_factory=dict)
    checkpoint: Literal["last", "best-robust-validation"] = "last"

    def rates(self, steps: int) -> Schedule:
        """The factor on the learning rate, at so many steps per epoch."""
        asked = self.model_dump(include={"epochs", "lr", "milestones", "gamma", "warmup", "decay"})
        return schedule_named(self.schedule, steps=steps, **asked)

    def check_optimizer(self) -> None:
        """Refuse, before anything is trained, an optimiser that there is not or that does not take its settings.

        Raises:
            InputError: see `gracile.training.optimizer_factory`.
        """
        optimizer_factory(self.optimizer, **self.model_dump(include={"lr", "momentum", "weight_decay", "nesterov"}))

    def objective(self, *, natural: bool = False) -> Objective:
        """What is minimised; `natural` takes clean samples where others are attacked."""
        if self.adversarial is None or natural:
            return CrossEntropy()
        return adversary(self.adversarial.method, **self.adversarial.options)

    def robust_monitors(self, validation: Dataset) -> dict[str, Monitor]:
        """The monitors of robustness, by row, on validation samples."""
        return robust_monitors(self.monitors, validation)

    def check_choice(self, arm: str, settle: float | None, *, sparse: bool) -> None:
        """Before anything is trained: what is kept can be chosen, and has the zeros asked for.

        Args:
            arm: its name.
            settle: share of the run, at its end, in which the arm's zeros are final; None where it has no such share.
            sparse: whether it has a method of sparse training.

        Raises:
            InputError: no monitor to choose by, or one that looks at networks whose zeros are not all there.
        """
        if self.checkpoint == "last":
            return
        if "best" not in self.monitors:
            raise InputError(
                "The best robust checkpoint is asked for, and nothing looks for it.",
                "Add [settings.training.monitors.best] with its eps.",
            )
        if sparse and "average" in self.monitors:
            raise InputError(
                f"'{arm}' becomes sparse, and averaged weights keep no zeros.",
                "Leave training.monitors.average out for it, or set checkpoint = 'last'.",
            )
        passed = self.monitors["best"].get("after", 0)
        if settle is not None and passed < self.epochs * (1 - settle) - 1e-9:
            raise InputError(
                f"The zeros of '{arm}' are final after {self.epochs * (1 - settle):g} epochs, and checkpoints count from {passed} on.",
                f"Set training.monitors.best.after to {math.ceil(self.epochs * (1 - settle) - 1e-9)}.",
            )

    def choose(self, kept: nn.Module, monitors: Mapping[str, Monitor], history: History) -> dict[str, float]:
        """Put the chosen checkpoint's weights into the network that is kept; the numbers that speak of it, in percent."""
        best = monitors.get("best")
        if self.checkpoint == "last" or not isinstance(best, BestRobust):
            return {}
        best.restore(kept)
        row = history.rows[best.epoch - 1]
        shares = {key: 100 * row[key] for key in ("sparsity", "channel_sparsity") if key in row}
        counts = {"nonzero": row["nonzero"]} if "nonzero" in row else {}
        return {"checkpoint_epoch": row["epoch"], "robust_val_accuracy": 100 * best.accuracy} | shares | counts
