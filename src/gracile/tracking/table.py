"""The trackers: to add one, write its class and a row here."""

from __future__ import annotations

from gracile.tracking.base import Tracker
from gracile.tracking.mlflow import MLflow
from gracile.tracking.tensorboard import TensorBoard
from gracile.tracking.wandb import WeightsAndBiases

# Each imports its client when it begins.
TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WeightsAndBiases}
