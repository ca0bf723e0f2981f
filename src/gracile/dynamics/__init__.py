"""Watching training: conserved quantities, low rank, and the tree inside a network."""

from gracile.dynamics.conservation import Drift, decay_error, flow_drift
from gracile.dynamics.far import FarFlow, log_logistic, normalised_flow
from gracile.dynamics.flow import Flow, gradient_flow
from gracile.dynamics.junctions import Junction, find
from gracile.dynamics.paths import count_paths
from gracile.dynamics.smoothness import Smoothness, SmoothnessMonitor, smoothness
from gracile.dynamics.table import MONITORS, monitors
from gracile.dynamics.tree import TreeNetwork, tree_decomposition
from gracile.dynamics.watch import DynamicsMonitor, watch

__all__ = [
    "MONITORS",
    "Drift",
    "DynamicsMonitor",
    "FarFlow",
    "Flow",
    "Junction",
    "Smoothness",
    "SmoothnessMonitor",
    "TreeNetwork",
    "count_paths",
    "decay_error",
    "find",
    "flow_drift",
    "gradient_flow",
    "log_logistic",
    "monitors",
    "normalised_flow",
    "smoothness",
    "tree_decomposition",
    "watch",
]
