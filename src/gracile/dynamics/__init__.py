"""Watching training: conserved quantities, low rank, and the tree inside a network."""

from gracile.dynamics.far import FarFlow, log_logistic, normalised_flow
from gracile.dynamics.flow import Flow, gradient_flow
from gracile.dynamics.junctions import Junction, find
from gracile.dynamics.monitor import Monitor, watch
from gracile.dynamics.paths import count_paths
from gracile.dynamics.tree import TreeNetwork, tree_decomposition

__all__ = [
    "FarFlow",
    "Flow",
    "Junction",
    "Monitor",
    "TreeNetwork",
    "count_paths",
    "find",
    "gradient_flow",
    "log_logistic",
    "normalised_flow",
    "tree_decomposition",
    "watch",
]
