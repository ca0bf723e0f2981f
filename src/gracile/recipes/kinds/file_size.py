"""The kind of recipe that trains arms and then weighs one: its ONNX file dense, shrunk, and in int8."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from gracile.core.errors import InputError, nearest
from gracile.core.files import write_json
from gracile.core.runs import RunFolder
from gracile.data import Splits
from gracile.data.batching import some
from gracile.export import Int8Warning, accuracy, export_onnx
from gracile.recipes.arms import Part
from gracile.recipes.kinds import Outcome
from gracile.recipes.kinds import train as training
from gracile.recipes.kinds.train import load_trained, train
from gracile.shrinking import shrink

__all__ = ["Settings", "outcome", "train"]


class Settings(training.Settings):
    """A training recipe, and what is weighed of it.

    Attributes:
        dense: the arm whose file the others are compared with.
        sparse: the arm whose network is shrunk; the same network as the dense one's.
        calibration: training samples that calibrate int8.
        max_drop: points of validation accuracy int8 may cost before layers stay in float.
    """

    dense: str
    sparse: str
    calibration: int = 512
    max_drop: float = 1.0

    def check(self, published: list[dict[str, Any]]) -> None:
        for arm in (self.dense, self.sparse):
            if arm not in self.trained():
                raise InputError(f"There is no arm '{arm}' to weigh.", nearest(arm, self.trained()))
        super().check(published)


def outcome(
    settings: Settings, folder: RunFolder, results: dict[str, list[dict[str, Any]]], published: list[dict[str, Any]]
) -> Outcome:
    """The table of the trained arms, then the files of the first seed, written and weighed."""
    trained = training.outcome(settings, folder, results, published)
    notes: list[str] = []
    sizes = _weigh(settings, folder, settings.data.splits(), notes)
    write_json(folder.path / "sizes.json", sizes)
    dense = sizes["dense"]
    rows, values = [], dict(trained.values)
    for name, found in sizes.items():
        ratio = dense["bytes"] / found["bytes"]
        rows.append(
            {
                "arm": f"file, {name}",
                "accuracy %": f"{found['accuracy']:.2f}",
                "bytes": found["bytes"],
                "x smaller": f"{ratio:.2f}",
            }
        )
        values |= {
            f"{name}.bytes": found["bytes"],
            f"{name}.times_smaller": ratio,
            f"{name}.file_accuracy": found["accuracy"],
        }
    values["int8_costs"] = sizes["shrunk"]["accuracy"] - sizes["int8"]["accuracy"]
    return Outcome([*trained.rows, *rows], values, trained.plots, [*trained.notes, *notes])


def _weigh(settings: Settings, folder: RunFolder, splits: Splits, notes: list[str]) -> dict[str, dict[str, float]]:
    """Bytes and test accuracy of the files: ``dense``, ``shrunk``, ``int8``."""
    example = torch.zeros(2, *splits.train.input_shape)
    seed = settings.seeds[0]
    dense, sparse = (
        load_trained(settings, Part(arm, seed, folder.path / settings.folder_of(arm, seed)), splits)
        for arm in (settings.dense, settings.sparse)
    )
    lean = shrink(sparse, example, dead="fold")
    with tempfile.TemporaryDirectory(prefix="gracile-") as place, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Int8Warning)
        files = {name: Path(place) / f"{name}.onnx" for name in ("dense", "shrunk", "int8")}
        export_onnx(dense, example, files["dense"], verbose=False)
        export_onnx(
            lean, example, files["int8"], some(splits.train, settings.calibration), validation=splits.validation,
            max_drop=settings.max_drop, float_path=files["shrunk"], verbose=False,
        )  # fmt: skip
        notes += [str(one.message) for one in caught if issubclass(one.category, Int8Warning)]
        return {
            name: {"bytes": file.stat().st_size, "accuracy": accuracy(file, splits.test).percent}
            for name, file in files.items()
        }
