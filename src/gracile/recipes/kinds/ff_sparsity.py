"""Recipes of kind `ff-sparsity`: how sparsity moves while a layer learns, and what the laws say of each step."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from pydantic import Field

from gracile.core.runs import RunFolder
from gracile.core.seeding import derive_seed, generator
from gracile.data import Dataset, batches
from gracile.recipes.arms import Part, Parts
from gracile.recipes.kinds import Outcome
from gracile.recipes.schema import Strict
from gracile.recipes.settings import DataSettings
from gracile.report.figures import new_figure, save_all

log = logging.getLogger("gracile")

SAMPLES = ("positive", "negative")


class Descent(Strict):
    """One run of plain gradient descent on the sum over each batch.

    Attributes:
        loss: ``decrease`` (theorem 1: the goodness of right-labelled images goes down), or of `gracile.forward_forward.losses.LOSSES`.
        lr: step size.
        epochs: passes over the training data.
        widths: of the layers; more than one are trained as a network, each layer on the length-normalised answer of the one below.
        threshold: of the loss.
        sharpness: of the loss.
    """

    loss: str
    lr: float
    epochs: int
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
    batch_size: int = 128
    runs: dict[str, Descent]
    probes: int = 1000
    probe_steps: int = 100
    seed: int = 0

    def names(self) -> list[str]:
        return list(self.runs)

    def seeds_of(self, arm: str) -> list[int]:
        return [self.seed]


def outcome(
    settings: Settings, folder: RunFolder, results: dict[str, list[dict[str, Any]]], published: list[dict[str, Any]]
) -> Outcome:
    """Set the table and draw."""
    from gracile.forward_forward import pictures

    note = settings.data.splits().train.note
    rows: list[dict[str, Any]] = []
    values: dict[str, float] = {}
    shares: dict[str, Any] = {}
    probes: dict[str, Any] = {}
    for name, (found,) in results.items():
        layers = found["layers"]
        for number, layer in enumerate(layers):
            single = len(layers) == 1
            label, key = (name, name) if single else (f"{name}, layer {number + 1}", f"{name}.layer{number + 1}")
            title = f"{label} (step {settings.runs[name].lr:g})"
            shares[title], probes[title] = layer["shares"], layer["probes"]
            first, last = layer["probes"][0], layer["probes"][-1]
            row: dict[str, Any] = {"run": label, "step size": settings.runs[name].lr}
            for kind, curves in layer["shares"].items():
                real, predicted = np.array(curves["real"]), np.array(curves["predicted"])
                row |= {f"{kind}: sparser %": 100 * real.mean(), f"{kind}: predicted %": 100 * predicted.mean()}
                values |= {
                    f"{key}.{kind}_real": 100 * real.mean(),
                    f"{key}.{kind}_predicted": 100 * predicted.mean(),
                    f"{key}.{kind}_first": 100 * real[0],
                    f"{key}.{kind}_first_predicted": 100 * predicted[0],
                    f"{key}.{kind}_over_half": 100 * float((real > 0.5).mean()),
                    f"{key}.{kind}_agree": 100 * float(np.mean(curves["agree"])),
                    f"{key}.{kind}_correlation": _correlation(real, predicted),
                    f"{key}.{kind}_sparsity_start": first[kind],
                    f"{key}.{kind}_sparsity_end": last[kind],
                }
            row |= {
                "agree %": values[f"{key}.positive_agree"],
                "most steps over half %": values[f"{key}.positive_over_half"],
            }
            row |= {"S at start": first["positive"], "S at end": last["positive"], "dead units % at end": last["dead"]}
            values[f"{key}.dead_end"] = last["dead"]
            rows.append(row)
    drawn = {
        "shares": pictures.shares_by_step(new_figure(9.5, 2.2 * len(shares) + 0.6), shares),
        "sparsity": pictures.over_training(new_figure(10.0, 4.0), probes),
    }
    return Outcome(rows, values, save_all(drawn, folder.path / "plots"), [note] if note else [])


def _correlation(real: np.ndarray, predicted: np.ndarray) -> float:
    """Of real and predicted shares over iterations; 1 where both stand still."""
    if len(real) < 2 or real.std() == 0 or predicted.std() == 0:
        return float(np.allclose(real, predicted))
    return float(np.corrcoef(real, predicted)[0, 1])


def train(settings: Settings, part: Part) -> dict[str, Any]:
    """One run; per layer what was seen: ``shares`` by kind (``predicted``, ``real``, ``agree`` by iteration) and ``probes``."""
    one, name = settings.runs[part.arm], part.arm
    layers = _Descent(settings, one, settings.data.splits().train)
    kinds = SAMPLES[:1] if layers.decrease else SAMPLES
    found: list[dict[str, Any]] = [
        {"shares": {kind: {"predicted": [], "real": [], "agree": []} for kind in kinds}, "probes": []}
        for _ in one.widths
    ]
    for iteration, steps in layers.steps(found):
        for layer, seen in zip(found, zip(*(steps[kind] for kind in kinds), strict=True), strict=True):
            for kind, shares in zip(kinds, seen, strict=True):
                for key in ("predicted", "real", "agree"):
                    layer["shares"][kind][key].append(round(getattr(shares, key), 6))
        if iteration % 500 == 0:
            told = found[0]["shares"]["positive"]
            log.info("%s, iteration %d: %.1f %% sparser", name, iteration, 100 * np.mean(told["real"][-100:]))
    return {"layers": found}


class _Descent:
    """A layer, or a network of them, descending."""

    def __init__(self, settings: Settings, one: Descent, train: Dataset) -> None:
        from gracile.forward_forward import FFNetwork, watching

        self.settings, self.one, self.train = settings, one, train
        self.decrease = one.loss == watching.DECREASE
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(settings.seed, "layers"))
            self.network = FFNetwork(
                int(np.prod(train.input_shape)), train.num_classes, one.widths, goodness="squared_sum",
                loss="difference" if self.decrease else one.loss, label="overlay", normalize="length", bias=False,
                # The threshold of a squared sum counts in widths, and of lengths about 1 the sum is about 1.
                threshold=0.0, sharpness=one.sharpness,
            )  # fmt: skip
        self.network.thresholds = [one.threshold] * len(one.widths)
        self.random = generator(settings.seed, "negatives")
        chosen = torch.randperm(len(train), generator=generator(settings.seed, "probes"))[: settings.probes]
        self.probe, self.labels = next(batches(train, settings.probes, order=chosen))
        self.wrong = self._draw(self.labels)

    def steps(self, found: list[dict[str, Any]]) -> Any:
        """Yield (iteration, what was seen by kind and layer); measure the probes on the way."""
        iteration = 0
        self._measure(found, iteration)
        for epoch in range(self.one.epochs):
            order = torch.randperm(len(self.train), generator=generator(self.settings.seed, "order", epoch))
            for x, y in batches(self.train, self.settings.batch_size, order=order, drop_last=True):
                iteration += 1
                yield iteration, self._step(x, y)
                if iteration % self.settings.probe_steps == 0:
                    self._measure(found, iteration)
        self._measure(found, iteration)

    def _step(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
        from gracile.forward_forward import watching

        one = self.one
        if len(one.widths) > 1:
            return watching.step_network(self.network, x, y, self._draw(y), one.lr)
        positive, negative = watching.unit_pairs(x.flatten(1), y, self.train.num_classes, self.random)
        weights = self.network.linear[0].weight.data
        seen = watching.step_layer(
            weights, positive, None if self.decrease else negative, one.lr,
            loss=one.loss, threshold=one.threshold, sharpness=one.sharpness,
        )  # fmt: skip
        return {kind: [shares] for kind, shares in seen.items()}

    def _draw(self, y: torch.Tensor) -> torch.Tensor:
        from gracile.forward_forward import random_wrong

        return random_wrong(y, self.train.num_classes, self.random)

    @torch.no_grad()
    def _measure(self, found: list[dict[str, Any]], iteration: int) -> None:
        from gracile.forward_forward import hoyer_sparsity
        from gracile.forward_forward.watching import dead_units

        shown = {"positive": self.labels, "negative": self.wrong}
        active = {kind: self.network.activations(self.probe, labels) for kind, labels in shown.items()}
        for number, dead in enumerate(dead_units(active["positive"])):
            means = {
                kind: hoyer_sparsity(layers[number], undefined="nan").nanmean().item()
                for kind, layers in active.items()
            }
            record = {"iteration": iteration, **means, "dead": 100 * dead}
            if not found[number]["probes"] or found[number]["probes"][-1]["iteration"] != iteration:
                found[number]["probes"].append(record)
