"""Workers: one network trained by many, over any graph, in one process or in many, every byte counted."""

from gracile.workers.compression import COMPRESSORS, Compressor, compressor
from gracile.workers.graphs import GRAPHS, Graph, graph
from gracile.workers.launching import Launched, launch
from gracile.workers.methods import METHODS, Method, method
from gracile.workers.mixing import MIXINGS, check_mixing, mixing_matrix, one_peer_exponential, spectral_gap
from gracile.workers.network import WorkerNetwork, network
from gracile.workers.optimizers import OPTIMIZERS, Optimizer
from gracile.workers.problem import Buffered, Classification, Problem, Proximal, Quadratics
from gracile.workers.processes import Processes, from_environment, hosting, under_torchrun
from gracile.workers.shards import SPLITS, label_skew, shards
from gracile.workers.training import Trained, train
from gracile.workers.transport import InProcess, Transport

__all__ = [
    "COMPRESSORS",
    "GRAPHS",
    "METHODS",
    "MIXINGS",
    "OPTIMIZERS",
    "SPLITS",
    "Buffered",
    "Classification",
    "Compressor",
    "Graph",
    "InProcess",
    "Launched",
    "Method",
    "Optimizer",
    "Problem",
    "Processes",
    "Proximal",
    "Quadratics",
    "Trained",
    "Transport",
    "WorkerNetwork",
    "check_mixing",
    "compressor",
    "from_environment",
    "graph",
    "hosting",
    "label_skew",
    "launch",
    "method",
    "mixing_matrix",
    "network",
    "one_peer_exponential",
    "shards",
    "spectral_gap",
    "train",
    "under_torchrun",
]
