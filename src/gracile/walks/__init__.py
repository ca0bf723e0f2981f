"""Senile reinforced random walks, exactly and simulated, and the models before them: the elephant walk with stops, the cell flow."""

from gracile.walks.cell_flow import CellFlow
from gracile.walks.elephant import ElephantWalk
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
    "CellFlow",
    "ConstantReinforcement",
    "CustomReinforcement",
    "Diffusivity",
    "ElephantWalk",
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
