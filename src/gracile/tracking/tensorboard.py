"""TensorBoard: event files in the run's own folders, so that ``tensorboard --logdir runs`` shows every run by its path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gracile.tracking.base import Tracked, Tracker


class TensorBoard(Tracker):
    """Writes scalars, settings as hyperparameters, and the table as text, beside ``metrics.jsonl``."""

    package, extra = "tensorboard", "tensorboard"

    def begin(self, run: Tracked, earlier: str | None) -> str:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(run.folder))
        self._settings = {
            key: value for key, value in run.settings.items() if isinstance(value, (bool, int, float, str))
        }
        return str(run.folder)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def result(self, numbers: Mapping[str, float], files: Sequence[Path]) -> None:
        results = {f"result/{name}": value for name, value in numbers.items()}
        # In this very folder: by default it makes one of its own, named by the clock.
        self._writer.add_hparams(self._settings, results, run_name=".")
        for file in files:
            if file.suffix == ".md":
                self._writer.add_text(file.stem, file.read_text(encoding="utf-8"))

    def end(self, *, done: bool) -> None:
        self._writer.close()
