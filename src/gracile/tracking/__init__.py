"""Runs shown elsewhere while they are trained: TensorBoard, MLflow, Weights & Biases, or a tracker of one's own.

A tracker is told what a run's folder holds, and only that: the folder stays the record, and what a tracker missed can be sent
again from it.
"""

from gracile.tracking.base import Tracked, Tracker
from gracile.tracking.table import TRACKERS
from gracile.tracking.telling import check, following, send

__all__ = ["TRACKERS", "Tracked", "Tracker", "check", "following", "send"]
