"""One optimiser step: by backpropagation of an objective, or by a learning rule."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gracile.core.learning_rule import LearningRule
from gracile.core.runs import RunFolder
from gracile.core.seeding import derive_seed
from gracile.training.adversarial import Objective
from gracile.training.parallel import Ranks
from gracile.training.schedules import Schedule
from gracile.training.state import TrainingState, check_finite

# On a GPU asking whether the loss is finite waits for it; on a CPU it is free.
STEPS_BETWEEN_CHECKS = {"cpu": 1, "cuda": 25}


class TrainingStep:
    """One optimiser step after the other, with the learning rate of its moment; passes go `through` the model or what wraps it."""

    def __init__(
        self,
        model: nn.Module,
        through: nn.Module,
        optimizer: Optimizer,
        learning: LearningRule | Objective,
        schedule: Schedule,
        steps: int,
        autocast: torch.autocast,
        seed: int,
        place: RunFolder | None,
        ranks: Ranks,
    ) -> None:
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.ranks, self.through = ranks, through
        self.learning = learning
        self.steps, self.autocast, self.seed, self.place = steps, autocast, seed, place
        self.base_rates = [float(group["lr"]) for group in optimizer.param_groups]

    def step(self, position: TrainingState, x: Tensor, y: Tensor) -> None:
        """Take one step on ``x, y``, several where the objective replays batches, and count the last."""
        progress = position.epoch + position.step / self.steps
        factor = self.schedule.factor(progress)
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
        x, y, weight = self.ranks.share(x, y)
        if callable(self.learning):
            self.optimizer.zero_grad(set_to_none=True)
            loss, correct = self.learning(x, y)
            self.optimizer.step()
        else:
            rank = [self.ranks.rank] if self.ranks.rank else []
            seed = derive_seed(self.seed, "adversary", position.epoch, position.step, *rank)
            rounds = range(self.learning.replays)
            loss, correct = [self._descend(self.learning, x, y, weight, progress, seed) for _ in rounds][-1]
        position.step += 1
        if weight:
            position.seen += len(y)
            position.loss += loss * len(y)
            position.correct += correct
        if position.step % STEPS_BETWEEN_CHECKS[x.device.type] == 0:
            check_finite(position, self.model, x, self.place)

    def _descend(
        self, objective: Objective, x: Tensor, y: Tensor, weight: float, progress: float, seed: int
    ) -> tuple[Tensor, Tensor]:
        """One step of the optimiser; the loss and how many answers were right."""
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast:
            loss, logits = objective.loss(self.through, x, y, progress, seed)
        (loss if weight == 1 else weight * loss).backward()
        self.optimizer.step()
        objective.follow()
        return loss.detach(), (logits.detach().argmax(dim=1) == y).sum()

    def last_rate(self, position: TrainingState) -> float:
        """The learning rate of the last step taken, before the epoch is counted as done."""
        return self.base_rates[0] * self.schedule.factor(position.epoch + (position.step - 1) / self.steps)
