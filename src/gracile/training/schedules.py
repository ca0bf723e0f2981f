"""Learning-rate schedules as pure functions of progress, so that a resumed run cannot disagree with itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gracile.core.errors import InputError, pick


class Schedule(Protocol):
    """A factor on the learning rate."""

    def factor(self, progress: float) -> float:
        """The factor after `progress` epochs, a real number from 0 to the number of epochs."""
        ...


@dataclass(frozen=True)
class Constant:
    """No change."""

    def factor(self, progress: float) -> float:
        """See `Schedule.factor`."""
        return 1.0


@dataclass(frozen=True)
class Milestones:
    """Multiply by `gamma` at each of these epochs, as the papers do (by 1/10 at 80, 120 and 160 of 200).

    Attributes:
        epochs: rising numbers of epochs.
        gamma: the factor.
        warmup: epochs of a linear rise before; 0 begins at the full rate.

    Raises:
        InputError: milestones do not rise, or a warm-up below 0.
    """

    epochs: Sequence[float]
    gamma: float = 0.1
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if not self.warmup >= 0:
            raise InputError(f"A warm-up of {self.warmup} epochs makes no sense.", "Give 0 or more.")
        if list(self.epochs) != sorted(set(self.epochs)):
            raise InputError(f"Milestones must rise, not {list(self.epochs)}.", "Sort them and drop doubles.")

    def factor(self, progress: float) -> float:
        """See `Schedule.factor`."""
        rise = (progress + 1e-8) / self.warmup if progress < self.warmup else 1.0
        return rise * self.gamma ** sum(progress >= epoch for epoch in self.epochs)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 to 0 over `epochs`, after a linear rise over the first `warmup` [@loshchilov2017].

    Attributes:
        epochs: length of the run.
        warmup: epochs of the rise, less than `epochs`; 0 begins at the full rate.

    Raises:
        InputError: the warm-up is as long as the run.
    """

    epochs: float
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < self.epochs:
            raise InputError(
                f"A warm-up of {self.warmup} epochs does not fit into {self.epochs}.",
                f"Give warmup from 0 to below {self.epochs}.",
            )

    def factor(self, progress: float) -> float:
        """See `Schedule.factor`."""
        if progress < self.warmup:
            return (progress + 1e-8) / self.warmup
        share = (progress - self.warmup) / (self.epochs - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


@dataclass(frozen=True)
class Diminishing:
    """``1 / (1 + decay l)`` at the l-th optimiser step, l = 1, 2, ...: the step sizes whose sum diverges and sum of squares does not.

    Stochastic gradient descent converges with them [@bottou2018, section 4].

    Attributes:
        decay: at least 0; the rate is half of `lr` after ``1 / decay`` steps.
        steps_per_epoch: batches per epoch; see `gracile.training.steps_per_epoch`.
    """

    decay: float
    steps_per_epoch: int

    def factor(self, progress: float) -> float:
        """See `Schedule.factor`."""
        return 1 / (1 + self.decay * (round(progress * self.steps_per_epoch) + 1))


@dataclass(frozen=True)
class Averaged:
    """``sqrt(l)`` at the l-th optimiser step: turns AdaGrad's sum of squared gradients into their mean.

    Attributes:
        steps_per_epoch: batches per epoch; see `gracile.training.steps_per_epoch`.
    """

    steps_per_epoch: int

    def factor(self, progress: float) -> float:
        """See `Schedule.factor`."""
        return math.sqrt(round(progress * self.steps_per_epoch) + 1)


def schedule_named(
    name: str,
    *,
    epochs: float,
    steps: int,
    lr: float,
    milestones: Sequence[float] = (),
    gamma: float = 0.1,
    warmup: float = 0.0,
    decay: float = 1e-3,
) -> Schedule:
    """A schedule by its name, of a training whose numbers are known.

    Args:
        name: ``constant``, ``milestones``, ``cosine``, ``diminishing`` or ``averaged``.
        epochs: of the training.
        steps: per epoch.
        lr: the learning rate, which ``diminishing`` depends on: it becomes ``lr / (1 + decay lr l)`` at step l.
        milestones: of `Milestones`.
        gamma: of `Milestones`.
        warmup: epochs, of `Milestones` and `Cosine`.
        decay: of ``diminishing``.

    Raises:
        InputError: no such schedule, a warm-up that does not fit, or milestones or a warm-up that the schedule would not look at.
    """
    if name == "cosine" and not 0 <= warmup < epochs:
        raise InputError(
            f"A warm-up of {warmup:g} epochs does not fit into {epochs}.",
            "Set training.warmup below training.epochs, as with --set training.warmup=0.",
        )
    if name == "constant" and (milestones or warmup):
        raise InputError(
            "milestones or warmup are given, and schedule is 'constant'.", "Set schedule to 'milestones' or 'cosine'."
        )
    made: dict[str, Callable[[], Schedule]] = {
        "constant": Constant,
        "milestones": lambda: Milestones(milestones, gamma, warmup),
        "cosine": lambda: Cosine(epochs, warmup),
        "diminishing": lambda: Diminishing(decay * lr, steps),
        "averaged": lambda: Averaged(steps),
    }
    return pick(made, name, "schedule")()
