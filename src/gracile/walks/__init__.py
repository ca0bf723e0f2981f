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
from gracile.walks.reinforcement import Constant, Custom, Linear, Power
from gracile.walks.simulation import Simulation
from gracile.walks.walk import Diffusivity, Growth, Recurrence, SenileWalk

__all__ = [
    "NOISES",
    "Constant",
    "Custom",
    "Diffusivity",
    "Exponential",
    "GrowingHalfNormal",
    "Growth",
    "HalfCauchy",
    "Linear",
    "LogPareto",
    "Pareto",
    "Power",
    "Recurrence",
    "SenileWalk",
    "Simulation",
    "Uniform",
]
