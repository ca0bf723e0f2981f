"""Training: one loop, schedules, checkpoints that resume exactly."""

from gracile.training.adversarial import ADVERSARIES, CrossEntropy, Objective, adversary
from gracile.training.evaluation import Evaluation, evaluate
from gracile.training.loop import History, fit, steps_per_epoch
from gracile.training.schedules import Constant, Cosine, Milestones, Schedule

__all__ = [
    "ADVERSARIES",
    "Constant",
    "Cosine",
    "CrossEntropy",
    "Evaluation",
    "History",
    "Milestones",
    "Objective",
    "Schedule",
    "adversary",
    "evaluate",
    "fit",
    "steps_per_epoch",
]
