"""Weights & Biases: a run for each part, grouped by the run's folder; ``WANDB_MODE=offline`` keeps it on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gracile.tracking.base import Tracked, Tracker


class WeightsAndBiases(Tracker):
    """Logs settings as the configuration, records as history, results as the summary, and files."""

    package, extra = "wandb", "wandb"

    def begin(self, run: Tracked, earlier: str | None) -> str:
        import wandb

        self._folder = run.folder
        self._run: Any = wandb.init(
            project=run.project, group=run.group, name=run.name, config=dict(run.settings), id=earlier,
            resume=None if earlier is None else "allow", reinit="create_new", settings=wandb.Settings(silent=True),
        )  # fmt: skip
        return self._run.id

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def result(self, numbers: Mapping[str, float], files: Sequence[Path]) -> None:
        for name, value in numbers.items():
            self._run.summary[f"result/{name}"] = value
        for file in files:
            self._run.save(str(file), base_path=str(self._folder), policy="now")

    def end(self, *, done: bool) -> None:
        self._run.finish(exit_code=0 if done else 1)
