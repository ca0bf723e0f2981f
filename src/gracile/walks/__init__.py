"""Senile reinforced random walks: exact diffusivity and fast simulation."""

from gracile.walks.noise import (
    NOISES,
    Exponential,
    GrowingHalfNormal,
    HalfCauchy,
    LogPareto,
    Pareto,
    Uniform,
)
from gracile.walks.reinforcement import (
    ConstantReinforcement,
    CustomReinforcement,
    LinearReinforcement,
    PowerReinforcement,
)
from gracile.walks.simulation import Simulation
from gracile.walks.walk import Diffusivity, Growth, Recurrence, SenileWalk

__all__ = [
    "NOISES",
    "ConstantReinforcement",
    "CustomReinforcement",
    "Diffusivity",
    "Exponential",
    "GrowingHalfNormal",
    "Growth",
    "HalfCauchy",
    "LinearReinforcement",
    "LogPareto",
    "Pareto",
    "PowerReinforcement",
    "Recurrence",
    "SenileWalk",
    "Simulation",
    "Uniform",
]
