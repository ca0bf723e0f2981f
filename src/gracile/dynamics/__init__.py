"""Watching training: conserved quantities, low rank, and the tree inside a network."""

from gracile.dynamics.flow import Flow, gradient_flow
from gracile.dynamics.junctions import Junction, find
from gracile.dynamics.monitor import Monitor, watch

__all__ = ["Flow", "Junction", "Monitor", "find", "gradient_flow", "watch"]
