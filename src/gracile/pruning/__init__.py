"""Pruning: the baselines that splitting is measured against, under one protocol."""

from gracile.pruning.admm import ADMM
from gracile.pruning.base import Pruning
from gracile.pruning.filters import L1Filters
from gracile.pruning.gradual import GradualMagnitude
from gracile.pruning.random_channels import RandomChannels
from gracile.pruning.scratch import Scratch
from gracile.pruning.shares import survivors
from gracile.pruning.slimming import NetworkSlimming
from gracile.pruning.subgradient import SubgradientGroupLasso

__all__ = [
    "ADMM",
    "GradualMagnitude",
    "L1Filters",
    "NetworkSlimming",
    "Pruning",
    "RandomChannels",
    "Scratch",
    "SubgradientGroupLasso",
    "survivors",
]
