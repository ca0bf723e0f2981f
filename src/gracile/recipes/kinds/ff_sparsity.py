"""Recipes of kind `ff-sparsity`: how sparsity moves while a layer learns, and what the laws say of each step."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from gracile.core.figures import new_figure
from gracile.core.runs import RunFolder
from gracile.forward_forward import pictures
from gracile.forward_forward.descent import correlation, watched_descent
from gracile.recipes.arms import Part, Parts
from gracile.recipes.kinds import Outcome
from gracile.recipes.schema import Strict
from gracile.recipes.settings import DataSettings
from gracile.recipes.tables import Results, Rows


class Descent(Strict):
    """One run, as `gracile.forward_forward.descent.watched_descent` takes it."""

    loss: str
    lr: float = Field(gt=0)
    epochs: int = Field(ge=1)
    widths: list[int] = Field(default_factory=lambda: [2000], min_length=1)
    threshold: float = 1.0
    sharpness: float = 1.0


class Settings(Parts):
    """What a recipe of this kind may set.

    Attributes:
        data: its training split is learned.
        batch_size: positive samples a step, and as many negative ones.
        runs: name to run; the name is the prefix of its values.
        probes: training samples on which sparsity and dead units are measured.
        probe_steps: iterations between those measurements.
        seed: of weights, order and negatives.
    """

    data: DataSettings
    batch_size: int = Field(default=128, ge=1)
    runs: dict[str, Descent]
    probes: int = Field(default=1000, ge=1)
    probe_steps: int = Field(default=100, ge=1)
    seed: int = 0

    def names(self) -> list[str]:
        return list(self.runs)

    def seeds_of(self, arm: str) -> list[int]:
        return [self.seed]


def train(settings: Settings, part: Part) -> dict[str, Any]:
    """One run; per layer what was seen: ``shares`` by kind (``predicted``, ``real``, ``agree`` by iteration) and ``probes``."""
    asked = settings.runs[part.arm].model_dump() | settings.model_dump(
        include={"batch_size", "probes", "probe_steps", "seed"}
    )
    return {"layers": [layer.to_json() for layer in watched_descent(settings.data.splits().train, **asked)]}


def outcome(settings: Settings, folder: RunFolder, results: Results, published: Rows) -> Outcome:
    """Set the table and draw."""
    found, shares, probes = Outcome(), {}, {}
    for name, (run,) in results.items():
        for number, layer in enumerate(run["layers"], 1):
            single, lr = len(run["layers"]) == 1, settings.runs[name].lr
            label, key = (name, name) if single else (f"{name}, layer {number}", f"{name}.layer{number}")
            title = f"{label} (step {lr:g})"
            shares[title], probes[title] = layer["shares"], layer["probes"]
            found.rows.append({"run": label, "step size": lr, **_row(layer, key, found.values)})
    drawn = {
        "shares": pictures.shares_by_step(new_figure(9.5, 2.2 * len(shares) + 0.6), shares),
        "sparsity": pictures.over_training(new_figure(10.0, 4.0), probes),
    }
    return Outcome(found.rows, found.values, drawn, [settings.data.splits().train.note])


def _row(layer: dict[str, Any], key: str, values: dict[str, float]) -> dict[str, Any]:
    """A layer's row; what criteria speak of goes into `values`, all in percent but sparsity and correlation."""
    first, last = layer["probes"][0], layer["probes"][-1]
    row = {}
    for kind, curves in layer["shares"].items():
        real, predicted = np.array(curves["real"]), np.array(curves["predicted"])
        row |= {f"{kind}: sparser %": 100 * real.mean(), f"{kind}: predicted %": 100 * predicted.mean()}
        numbers = {
            "real": 100 * real.mean(),
            "predicted": 100 * predicted.mean(),
            "first": 100 * real[0],
            "first_predicted": 100 * predicted[0],
            "over_half": 100 * float((real > 0.5).mean()),
            "agree": 100 * float(np.mean(curves["agree"])),
            "correlation": correlation(real, predicted),
            "sparsity_start": first[kind],
            "sparsity_end": last[kind],
        }
        values |= {f"{key}.{kind}_{name}": value for name, value in numbers.items()}
    values[f"{key}.dead_end"] = last["dead"]
    row |= {"agree %": values[f"{key}.positive_agree"], "most steps over half %": values[f"{key}.positive_over_half"]}
    return row | {"S at start": first["positive"], "S at end": last["positive"], "dead units % at end": last["dead"]}
