"""MLflow: a run for each part, in an experiment named by the recipe, where ``MLFLOW_TRACKING_URI`` says."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gracile.tracking.base import Tracked, Tracker

# How many numbers and settings a server takes in one request, and how long a setting's value may be.
NUMBERS, SETTINGS, LONGEST = 1000, 100, 6000


class MLflow(Tracker):
    """Logs settings as parameters, records as metrics, and files as artifacts."""

    package, extra = "mlflow", "mlflow"

    def begin(self, run: Tracked, earlier: str | None) -> str:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client: Any = MlflowClient()
        if earlier is not None:
            self._id = earlier
            self._client.update_run(self._id, status="RUNNING")
            return self._id
        experiment = self._client.get_experiment_by_name(run.project)
        place = self._client.create_experiment(run.project) if experiment is None else experiment.experiment_id
        opened = self._client.create_run(place, run_name=run.name, tags={"gracile.run": run.group})
        self._id = opened.info.run_id
        settings = [Param(key, str(value)[:LONGEST]) for key, value in run.settings.items()]
        for first in range(0, len(settings), SETTINGS):
            self._client.log_batch(self._id, params=settings[first : first + SETTINGS])
        return self._id

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        found = [Metric(name, value, now, step) for name, value in numbers.items()]
        for first in range(0, len(found), NUMBERS):
            self._client.log_batch(self._id, metrics=found[first : first + NUMBERS])

    def result(self, numbers: Mapping[str, float], files: Sequence[Path]) -> None:
        self.log({f"result/{name}": value for name, value in numbers.items()}, 0)
        for file in files:
            self._client.log_artifact(self._id, str(file))

    def end(self, *, done: bool) -> None:
        self._client.set_terminated(self._id, status="FINISHED" if done else "KILLED")
