"""Reading any learner of this room."""

from __future__ import annotations

from pathlib import Path

from gracile.core.devices import device_named
from gracile.core.estimator_files import read
from gracile.layerwise.estimator import Learner
from gracile.layerwise.table import ESTIMATORS


def load(path: str | Path, device: str = "cpu") -> Learner:
    """Read a learner that its `save` wrote; it predicts as the saved one does.

    Args:
        path: the file.
        device: where it predicts.

    Raises:
        StorageError: no such file, or one of something else.
    """
    return read(Path(path), ESTIMATORS, device_named(device))
