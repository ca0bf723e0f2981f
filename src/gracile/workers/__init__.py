"""Workers: one network trained by many, over any graph, in one process or in many, every byte counted."""

from gracile.workers.channel import Channel, InProcess
from gracile.workers.graphs import GRAPHS, Graph, graph
from gracile.workers.mixing import RULES, check_mixing, mixing_matrix, one_peer_exponential, spectral_gap
from gracile.workers.network import WorkerNetwork, network

__all__ = [
    "GRAPHS",
    "RULES",
    "Channel",
    "Graph",
    "InProcess",
    "WorkerNetwork",
    "check_mixing",
    "graph",
    "mixing_matrix",
    "network",
    "one_peer_exponential",
    "spectral_gap",
]
