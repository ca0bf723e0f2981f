"""Forward-forward: a classifier whose layers learn each on its own, and the laws of the sparsity that emerges in them."""

from gracile.forward_forward.estimator import FFClassifier
from gracile.forward_forward.from_mlp import learner_like
from gracile.forward_forward.labels import random_wrong, write_labels
from gracile.forward_forward.laws import SparsityChange, hoyer_sparsity, network_changes, theorem1, theorem2
from gracile.forward_forward.network import FFNetwork

__all__ = [
    "FFClassifier",
    "FFNetwork",
    "SparsityChange",
    "hoyer_sparsity",
    "learner_like",
    "network_changes",
    "random_wrong",
    "theorem1",
    "theorem2",
    "write_labels",
]
