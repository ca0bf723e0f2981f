"""A trained network on its way out: what attacks leave of it, and what is left of its size."""

from gracile.deploy.attack import Attacked, attack
from gracile.deploy.compress import Compressed, compress
from gracile.deploy.hub import Architecture, from_pretrained, save_pretrained
from gracile.deploy.measures import FileSize, Latency
from gracile.deploy.networks import Candidate, from_file

__all__ = [
    "Architecture", "Attacked", "Candidate", "Compressed", "FileSize", "Latency", "attack", "compress", "from_file",
    "from_pretrained", "save_pretrained",
]  # fmt: skip
