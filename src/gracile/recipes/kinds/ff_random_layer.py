"""Recipes of kind `ff-random-layer`: theorem 1 of forward-forward's sparsity on a random layer, and both laws' reach in the step size."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure
from pydantic import Field

from gracile.core.console import told
from gracile.core.figures import new_figure
from gracile.core.runs import RunFolder
from gracile.data import Dataset
from gracile.forward_forward import pictures
from gracile.forward_forward.reach import law_reach, theorem1_sides
from gracile.recipes.kinds import Outcome
from gracile.recipes.schema import Strict
from gracile.recipes.settings import DataSettings

# Batch size, and so many samples, of which the picture shows both sides of the law.
SHOWN = 128, 2000


class Settings(Strict):
    """What a recipe of this kind may set.

    Attributes:
        data: its training split is used.
        width: units of the layer.
        batch_sizes: for the share of samples that satisfy theorem 1; every sample is judged within its own batch.
        seeds: of weights and batches.
        lrs: step sizes at which both theorems are compared with a step, in float64.
        rate_width: units of the layer of that comparison.
        rate_batch: samples of its batches.
        rate_batches: how many batches.
    """

    data: DataSettings
    width: int = 128
    batch_sizes: list[int] = Field(default_factory=lambda: [2**power for power in range(1, 11)])
    seeds: list[int] = Field(default_factory=lambda: [0])
    lrs: list[float] = Field(default_factory=lambda: [10.0**power for power in range(-7, 0)])
    rate_width: int = 2000
    rate_batch: int = 128
    rate_batches: int = 8


def execute(settings: Settings, folder: RunFolder) -> Outcome:
    """Shares against batch size, then agreement against step size."""
    train, found = settings.data.splits().train, Outcome()
    drawn = _shares(settings, train, folder, found) | _reach(settings, train, folder, found)
    return Outcome(found.rows, found.values, drawn, [train.note])


def _shares(settings: Settings, train: Dataset, folder: RunFolder, found: Outcome) -> dict[str, Figure]:
    """Share of samples that satisfy theorem 1, for plain images and for images with their label, against batch size."""
    curves: dict[str, list[tuple[int, float]]] = {"images": [], "images with label": []}
    shown, lengths = (np.empty(0), np.empty(0)), []
    for labelled, (kind, points) in enumerate(curves.items()):
        for size in settings.batch_sizes:
            seen = [
                theorem1_sides(train, width=settings.width, batch_size=size, seed=seed, labelled=bool(labelled))
                for seed in settings.seeds
            ]
            lengths += [length for one in seen for length in one.lengths]
            if not labelled and size == SHOWN[0]:
                shown = seen[0].left.numpy()[: SHOWN[1]], seen[0].right.numpy()[: SHOWN[1]]
            total = sum(len(one.left) for one in seen)
            share = sum(int(one.satisfied.sum()) for one in seen) / total
            turned = sum(int((one.left < 0).sum()) for one in seen) / total
            points.append((size, share))
            row = {"samples": kind, "batch size": size}
            found.rows.append({**row, "satisfy theorem 1 %": 100 * share, "quotient would turn %": 100 * turned})
            folder.record(found.rows[-1])
            told.info("%s, batch size %d: %.4f %% satisfy theorem 1", kind, size, 100 * share)
        key = kind.replace(" ", "_")
        found.values.update({f"share_{key}_{size}": 100 * share for size, share in points})
        growth = (after - before for (_, before), (_, after) in pairwise(points))
        found.values[f"least_growth_{key}"] = 100 * min(growth, default=0.0)
    # N(0, 2 / n) as a variance keeps lengths of 1; as a standard deviation they would shrink by sqrt(2 / n).
    found.values["mean_length"] = float(np.mean(lengths))
    return {
        "sides": pictures.sides(new_figure(7.0, 4.0), *shown),
        "batch size": pictures.shares_by_batch(new_figure(7.0, 4.0), curves),
    }


def _reach(settings: Settings, train: Dataset, folder: RunFolder, found: Outcome) -> dict[str, Figure]:
    """Share of samples for which law and step agree, against step size."""
    curves = {}
    samples = settings.rate_batch * settings.rate_batches
    reached = law_reach(
        train, settings.lrs, width=settings.rate_width, batch_size=settings.rate_batch, samples=samples, seed=settings.seeds[0]
    )  # fmt: skip
    for name, by_lr in reached.items():
        curves[name] = []
        key = name.replace(" ", "")
        for lr, seen in zip(settings.lrs, by_lr, strict=True):
            agree, real = (float(np.mean([getattr(one, what) for one in seen])) for what in ("agree", "real"))
            curves[name].append((lr, agree))
            found.values[f"agree_{key}_{lr:g}"], found.values[f"real_{key}_{lr:g}"] = 100 * agree, 100 * real
            found.rows.append({"law": name, "step size": lr, "agreement %": 100 * agree})
        folder.record({"law": name, "agreement": curves[name]})
        told.info("%s: %s", name, ", ".join(f"{lr:g}: {100 * share:.2f} %" for lr, share in curves[name]))
    return {"step size": pictures.agreement(new_figure(7.0, 4.0), curves)}
