"""Training: one loop, schedules, checkpoints that resume exactly."""

from gracile.training.adversarial import ADVERSARIES, CrossEntropy, Objective, adversary
from gracile.training.averaging import WeightAverage
from gracile.training.best_robust import BestRobust
from gracile.training.catastrophic import CatastrophicOverfitting
from gracile.training.evaluation import Evaluation, evaluate
from gracile.training.formulas import ExplicitDescent, OutputLoss
from gracile.training.loop import fit, steps_per_epoch
from gracile.training.objectives import LossObjective
from gracile.training.optimizers import optimizer_factory
from gracile.training.proximal import proximal
from gracile.training.robust_monitors import ROBUST_MONITORS, robust_monitor, robust_monitors
from gracile.training.schedules import Averaged, Constant, Cosine, Diminishing, Milestones, Schedule
from gracile.training.state import History

__all__ = [
    "ADVERSARIES",
    "ROBUST_MONITORS",
    "Averaged",
    "BestRobust",
    "CatastrophicOverfitting",
    "Constant",
    "Cosine",
    "CrossEntropy",
    "Diminishing",
    "Evaluation",
    "ExplicitDescent",
    "History",
    "LossObjective",
    "Milestones",
    "Objective",
    "OutputLoss",
    "Schedule",
    "WeightAverage",
    "adversary",
    "evaluate",
    "fit",
    "optimizer_factory",
    "proximal",
    "robust_monitor",
    "robust_monitors",
    "steps_per_epoch",
]
