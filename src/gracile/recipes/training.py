"""How a recipe's arms are trained, and what that says turned into a schedule and an objective."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from gracile.recipes.schema import Strict
from gracile.training import CrossEntropy, Objective, Schedule, adversary
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
        decay: of the schedule ``diminishing``, ``lr / (1 + decay lr l)`` at step l; ``averaged`` belongs to adagrad.
        adversarial: attacks the batches of all arms that are not `natural`.
        checkpoint_seconds: at most this long between checkpoints; it changes no number.
    """

    epochs: int
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    schedule: Literal["constant", "milestones", "cosine", "diminishing", "averaged"] = "constant"
    milestones: list[float] = Field(default_factory=list)
    gamma: float = 0.1
    warmup: float = 0.0
    decay: float = 1e-3
    precision: Literal["auto", "float32", "bf16"] = "auto"
    adversarial: AdversarialSettings | None = None
    checkpoint_seconds: float = Field(60.0, ge=0)

    def rates(self, steps: int) -> Schedule:
        """The factor on the learning rate, at so many steps per epoch."""
        asked = self.model_dump(include={"epochs", "lr", "milestones", "gamma", "warmup", "decay"})
        return schedule_named(self.schedule, steps=steps, **asked)

    def objective(self, *, natural: bool = False) -> Objective:
        """What is minimised; `natural` takes clean samples where others are attacked."""
        if self.adversarial is None or natural:
            return CrossEntropy()
        return adversary(self.adversarial.method, **self.adversarial.options)
