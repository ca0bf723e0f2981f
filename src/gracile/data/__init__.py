"""Data sets as tensors: whole on the device where they fit, streamed from a file where they do not.

Batches are in [0, 1]; standardising is the network's own first layer.
"""

from gracile.data.augmentation import Augmentation
from gracile.data.batching import batches
from gracile.data.dataset import Dataset, Splits
from gracile.data.description import Description, describe
from gracile.data.loading import load, splits

__all__ = ["Augmentation", "Dataset", "Description", "Splits", "batches", "describe", "load", "splits"]
