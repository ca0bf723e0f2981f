"""The kind of recipe that trains arms and then weighs one: its ONNX file dense, shrunk, and in int8."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from gracile.core.errors import InputError, nearest
from gracile.core.files import write_json
from gracile.core.runs import RunFolder
from gracile.data import Splits
from gracile.data.batching import some
from gracile.export import Int8Warning, accuracy, export_onnx
from gracile.recipes import arms, train
from gracile.recipes.kinds import Outcome
from gracile.shrinking import shrink


class Settings(arms.Settings):
    """A training recipe, and what is weighed of it.

    Attributes:
        dense, sparse: the arms whose files are compared; the same network in both.
        calibration: training samples that calibrate int8.
        max_drop: points of validation accuracy int8 may cost before layers stay in float.
    """

    dense: str
    sparse: str
    calibration: int = 512
    max_drop: float = 1.0


def execute(settings: Settings, folder: RunFolder, published: list[dict[str, Any]]) -> Outcome:
    """Train the arms, then write and weigh the files of the first seed."""
    for arm in (settings.dense, settings.sparse):
        if arm not in settings.arms:
            raise InputError(f"There is no arm '{arm}' to weigh.", nearest(arm, settings.arms))
    trained = train.execute(settings, folder, published)
    splits = arms.load_data(settings.data)
    notes: list[str] = []
    sizes = _weigh(settings, folder, splits, notes)
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
    dense, sparse = (_trained(settings, folder, splits, arm) for arm in (settings.dense, settings.sparse))
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


def _trained(settings: Settings, folder: RunFolder, splits: Splits, arm: str) -> nn.Module:
    """The arm's sparse network from the first seed."""
    seed = settings.seeds[0]
    network = arms.build_network(settings.arms[arm].model or settings.model, splits, seed)
    network.load_state_dict(load_file(folder.path / train.part_name(arm, seed, settings.seeds) / "model.safetensors"))
    return network.eval()
