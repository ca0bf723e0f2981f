"""The kind of recipe that trains arms and then weighs one: its ONNX file dense, shrunk, and in int8, and how fast the first two answer."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import torch

from gracile.core.errors import pick
from gracile.core.files import write_json
from gracile.core.runs import RunFolder
from gracile.data import Splits
from gracile.data.batching import some
from gracile.deploy import Latency
from gracile.export import Int8Warning, accuracy, export_onnx
from gracile.recipes.arms import Part
from gracile.recipes.kinds import Outcome
from gracile.recipes.kinds import train as training
from gracile.recipes.kinds.train import load_trained, train
from gracile.recipes.tables import Results, Rows, published_row, spread, with_error
from gracile.shrinking import shrink

__all__ = ["Settings", "outcome", "train"]

FORMS = ("dense", "shrunk", "int8")


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

    def check(self, published: Rows) -> None:
        for arm in (self.dense, self.sparse):
            pick(self.trained(), arm, "arm")
        super().check(published)


def outcome(settings: Settings, folder: RunFolder, results: Results, published: Rows) -> Outcome:
    """The table of the trained arms, then the files of every seed, written and weighed."""
    trained = training.outcome(settings, folder, results, published)
    splits = settings.data.splits()
    weighed = {seed: _weigh(settings, folder, seed, splits, trained.notes) for seed in settings.seeds}
    write_json(folder.path / "sizes.json", weighed)
    for name in FORMS:
        numbers = [_beside_dense(sizes, name) for sizes in weighed.values()]
        found = {key: [one[key] for one in numbers] for key in numbers[0]}
        row = {
            "arm": f"file, {name}",
            "accuracy %": spread(found["file_accuracy"]),
            "bytes": spread(found["bytes"], 0),
            "x smaller": spread(found["times_smaller"]),
        }
        if "times_faster" in found:
            row["x faster"] = spread(found["times_faster"])
        beside = published_row(name, [name] if name in (line.get("file") for line in published) else [], published)
        trained.rows.append({**row, **beside})
        for key, values in found.items():
            trained.values.update(with_error(f"{name}.{key}", values))
    costs = [sizes["shrunk"]["accuracy"] - sizes["int8"]["accuracy"] for sizes in weighed.values()]
    trained.values.update(with_error("int8_costs", costs))
    return trained


def _beside_dense(sizes: dict[str, dict[str, float]], name: str) -> dict[str, float]:
    """What is told of one file of a seed."""
    dense, found = sizes["dense"], sizes[name]
    numbers = {
        "bytes": found["bytes"],
        "times_smaller": dense["bytes"] / found["bytes"],
        "file_accuracy": found["accuracy"],
    }
    return numbers | ({"times_faster": dense["ms"] / found["ms"]} if "ms" in found else {})


def _weigh(
    settings: Settings, folder: RunFolder, seed: int, splits: Splits, notes: list[str]
) -> dict[str, dict[str, float]]:
    """Bytes and test accuracy of a seed's files, ``dense``, ``shrunk`` and ``int8``, and milliseconds of the first two."""
    example = torch.zeros(2, *splits.train.input_shape)
    dense, sparse = (
        load_trained(settings, Part(arm, seed, folder.path / settings.folder_of(arm, seed)), splits)
        for arm in (settings.dense, settings.sparse)
    )
    lean = shrink(sparse, example, dead="fold")
    with tempfile.TemporaryDirectory(prefix="gracile-") as place, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Int8Warning)
        files = {name: Path(place) / f"{name}.onnx" for name in FORMS}
        export_onnx(dense, example, files["dense"], verbose=False)
        export_onnx(
            lean, example, files["int8"], some(splits.train, settings.calibration), validation=splits.validation,
            max_drop=settings.max_drop, float_path=files["shrunk"], verbose=False,
        )  # fmt: skip
        notes += [f"seed {seed}: {one.message}" for one in caught if issubclass(one.category, Int8Warning)]
        sizes = {
            name: {"bytes": file.stat().st_size, "accuracy": accuracy(file, splits.test).percent}
            for name, file in files.items()
        }
    timed = Latency(example[:1], rounds=15, turn=0.1)
    for name, network in (("dense", dense), ("shrunk", sparse)):
        sizes[name]["ms"] = timed(network)
    return sizes
