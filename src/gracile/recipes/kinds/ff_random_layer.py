"""Recipes of kind `ff-random-layer`: theorem 1 of forward-forward's sparsity on a random layer, and both laws' reach in the step size."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gracile.core.runs import RunFolder
from gracile.core.seeding import generator
from gracile.data import Dataset, batches
from gracile.recipes.kinds import Outcome
from gracile.recipes.schema import Strict
from gracile.recipes.settings import DataSettings
from gracile.report.figures import new_figure, save_all

log = logging.getLogger("gracile")


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
    """Seconds to minutes; nothing is kept of an interrupted run."""
    from gracile.forward_forward import pictures

    splits = settings.data.splits()
    folder.rewrite_metrics([])
    values: dict[str, float] = {}
    rows, curves, drawn_sides = _shares(settings, splits.train, folder, values)
    reached = _reach(settings, splits.train, folder, values)
    for name, points in reached.items():
        rows += [{"law": name, "step size": rate, "agreement %": 100 * share} for rate, share in points]
    drawn = {
        "sides": pictures.sides(new_figure(7.0, 4.0), *drawn_sides),
        "batch size": pictures.shares_by_batch(new_figure(7.0, 4.0), curves),
        "step size": pictures.agreement(new_figure(7.0, 4.0), reached),
    }
    notes = [splits.train.note] if splits.train.note else []
    return Outcome(rows, values, save_all(drawn, folder.path / "plots"), notes)


def _shares(
    settings: Settings, train: Dataset, folder: RunFolder, values: dict[str, float]
) -> tuple[list[dict[str, Any]], dict[str, list[tuple[int, float]]], tuple[np.ndarray, np.ndarray]]:
    """Share of samples that satisfy theorem 1, for plain images and for images with their label, against batch size."""
    from gracile.forward_forward import theorem1, watching
    from gracile.forward_forward.labels import write_labels
    from gracile.forward_forward.normalization import NORMALIZATIONS

    rows: list[dict[str, Any]] = []
    curves: dict[str, list[tuple[int, float]]] = {}
    kept: tuple[np.ndarray, np.ndarray] = (np.empty(0), np.empty(0))
    features = int(np.prod(train.input_shape))
    lengths = []
    for kind in ("images", "images with label"):
        for size in settings.batch_sizes:
            satisfied, negative, total = 0, 0, 0
            for seed in settings.seeds:
                weights = watching.random_layer(settings.width, features, generator(seed, "layer"))
                order = torch.randperm(len(train), generator=generator(seed, "order"))
                left, right = [], []
                for images, y in batches(train, size, order=order, drop_last=True):
                    x = images.flatten(1)
                    x = NORMALIZATIONS["length"](x if kind == "images" else write_labels(x, y, train.num_classes))
                    h = torch.relu(x @ weights.T)
                    change = theorem1(x, h, (x, h), undefined="nan")
                    satisfied += int(change.sparser.sum())
                    negative += int((change.left < 0).sum())
                    total += len(x)
                    lengths.append(torch.linalg.vector_norm(h, dim=1).mean().item())
                    left.append(change.left)
                    right.append(change.right)
                if kind == "images" and size == 128 and seed == settings.seeds[0]:
                    kept = (torch.cat(left).numpy()[:2000], torch.cat(right).numpy()[:2000])
            share = satisfied / total
            curves.setdefault(kind, []).append((size, share))
            row = {
                "samples": kind,
                "batch size": size,
                "satisfy theorem 1 %": 100 * share,
                "quotient would turn %": 100 * negative / total,
            }
            rows.append(row)
            folder.record(row)
            log.info("%s, batch size %d: %.4f %% satisfy theorem 1", kind, size, 100 * share)
    for kind, points in curves.items():
        key = kind.replace(" ", "_")
        shares = [share for _, share in points]
        values |= {f"share_{key}_{size}": 100 * share for size, share in points}
        values[f"least_growth_{key}"] = 100 * min(np.diff(shares), default=0.0)
    # N(0, 2 / n) as a variance keeps lengths of 1; as a standard deviation they would shrink by sqrt(2 / n).
    values["mean_length"] = float(np.mean(lengths))
    return rows, curves, kept


def _reach(
    settings: Settings, train: Dataset, folder: RunFolder, values: dict[str, float]
) -> dict[str, list[tuple[float, float]]]:
    """Share of samples for which law and step agree, against step size."""
    from gracile.forward_forward import watching
    from gracile.forward_forward.watching import DECREASE

    seed = settings.seeds[0]
    features = int(np.prod(train.input_shape))
    weights = watching.random_layer(settings.rate_width, features, generator(seed, "reach"), torch.float64)
    order = torch.randperm(len(train), generator=generator(seed, "reach order"))
    random = generator(seed, "reach negatives")
    found: dict[str, list[list[watching.Seen]]] = {"theorem 1": [], "theorem 2": []}
    taken = order[: settings.rate_batch * settings.rate_batches]
    for images, y in batches(train, settings.rate_batch, order=taken, drop_last=True):
        pairs = watching.unit_pairs(images.flatten(1).double(), y, train.num_classes, random)
        for name, negative, loss in (("theorem 1", None, DECREASE), ("theorem 2", pairs[1], "difference")):
            found[name].append([
                _one(weights.clone(), pairs[0], negative, rate, loss) for rate in settings.lrs
            ])  # fmt: skip
    curves = {}
    for name, per_batch in found.items():
        points = [
            (rate, float(np.mean([seen[place].agree for seen in per_batch]))) for place, rate in enumerate(settings.lrs)
        ]
        curves[name] = points
        key = name.replace(" ", "")
        for (rate, share), seen in zip(points, zip(*per_batch, strict=True), strict=True):
            values[f"agree_{key}_{rate:g}"] = 100 * share
            values[f"real_{key}_{rate:g}"] = 100 * float(np.mean([one.real for one in seen]))
        folder.record({"law": name, "agreement": points})
        log.info("%s: %s", name, ", ".join(f"{rate:g}: {100 * share:.2f} %" for rate, share in points))
    return curves


def _one(weights: Tensor, positive: Tensor, negative: Tensor | None, rate: float, loss: str) -> Any:
    from gracile.forward_forward import watching

    return watching.step_layer(weights, positive, negative, rate, loss=loss, threshold=0.0, sharpness=1.0)["positive"]
