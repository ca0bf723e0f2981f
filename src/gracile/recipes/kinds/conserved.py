"""Recipes of kind `conserved`: what gradient flow conserves, what it moves, and what optimisers with steps make of it."""

from __future__ import annotations

import copy
import logging
import math
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import nn

from gracile.core.power_law import exponent
from gracile.core.runs import RunFolder
from gracile.recipes.kinds import Outcome
from gracile.recipes.schema import Strict
from gracile.report.figures import new_figure, save_all

log = logging.getLogger("gracile")


class Settings(Strict):
    """What a recipe of this kind may set.

    Attributes:
        networks: rows of `gracile.dynamics.example_networks.NETWORKS` that flow; those with ReLUs up to the first sign change.
        time: of the flow.
        tolerance: of the flow.
        records: along the flow.
        examples: in the data.
        stepped: the network that is descended on.
        lrs: step sizes of the descent.
        descent_time: steps times step size.
        weight_decay: lambda of the law of decay.
        seed: of weights and data.
    """

    networks: list[str]
    time: float = 1.0
    tolerance: float = 1e-12
    records: int = 12
    examples: int = 8
    stepped: str = "linear"
    lrs: list[float] = Field(min_length=3)
    descent_time: float = 2.0
    weight_decay: float = 0.3
    seed: int = 0


def execute(settings: Settings, folder: RunFolder) -> Outcome:
    """Flow, descend, decay; seconds to a minute, so nothing is kept of an interrupted run."""
    from gracile.dynamics import pictures

    folder.rewrite_metrics([])
    rows: list[dict[str, Any]] = []
    values: dict[str, float] = {}
    curves: dict[str, list[tuple[float, float]]] = {}
    for name in settings.networks:
        rows += _flow(settings, name, folder, curves)
    kept = {"full": 0.0, "pattern": 0.0, "diagonal": 0.0}
    moved = {"pattern": 0.0, "diagonal": 0.0, "none": 0.0}
    for row in rows:
        if row["conserved"] in kept:
            kept[row["conserved"]] = max(kept[row["conserved"]], row["drift of what must stay"])
        if row["conserved"] in moved:
            moved[row["conserved"]] = max(moved[row["conserved"]], row["drift of the rest"])
    values |= {f"drift_{key}": value for key, value in kept.items()} | {
        f"moved_{key}": value for key, value in moved.items()
    }
    steps = _descend(settings, folder, values)
    values["weight_decay_error"] = _decay(settings)
    drawn = {
        "flow": pictures.drift_curves(
            curves, xlabel="time", title="gradient flow: what must stay (rounding) and what moves", figure=new_figure(9.5, 4.2)),
        "steps": pictures.drift_curves(
            steps, xlabel="step size", title="optimisers: drift after the same time", figure=new_figure(7.5, 4.0)),
    }  # fmt: skip
    return Outcome(rows, values, save_all(drawn, folder.path / "plots"))


def _parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: one.detach() for name, one in model.named_parameters()}


def _flow(
    settings: Settings, name: str, folder: RunFolder, curves: dict[str, list[tuple[float, float]]]
) -> list[dict[str, Any]]:
    from gracile.dynamics import example_networks, find, gradient_flow

    model = example_networks.network(name, settings.seed)
    x, y = example_networks.regression(name, settings.examples, settings.seed)
    junctions = find(model, x)
    start = [one.difference(_parameters(model)) for one in junctions]

    def observe(time: float) -> list[tuple[float, float]]:
        found = []
        for one, then in zip(junctions, start, strict=True):
            change = (one.difference(_parameters(model)) - then).abs()
            rest = change - torch.diag(change.diagonal())
            must = {"full": change, "none": change * 0}.get(one.invariance, change.diagonal())
            free = {"full": change * 0, "none": change}.get(one.invariance, rest)
            found.append((must.max().item(), free.max().item()))
        folder.record(
            {"network": name, "time": time, "drift": {j.name: f for j, f in zip(junctions, found, strict=True)}}
        )
        return found

    flow = gradient_flow(
        model, lambda net: (net(x) - y).square().mean(), time=settings.time, tolerance=settings.tolerance, sign_changes="stop",
        observe=observe, records=settings.records,
    )  # fmt: skip
    rows = []
    for number, one in enumerate(junctions):
        must, free = (max(found[number][side] for _, found in flow.observed) for side in (0, 1))
        rows.append({
            "network": name, "junction": one.name, "case": one.case, "conserved": one.invariance,
            "drift of what must stay": must, "drift of the rest": free, "until": flow.time,
        })  # fmt: skip
    for side, words in ((0, "must stay"), (1, "moves")):
        curves[f"{name}, {words}"] = [(time, max(pair[side] for pair in found)) for time, found in flow.observed]
    log.info("%s: loss %.4g -> %.4g, to time %.4g", name, *flow.losses, flow.time)
    return rows


def _descend(settings: Settings, folder: RunFolder, values: dict[str, float]) -> dict[str, list[tuple[float, float]]]:
    from gracile.dynamics import descent, example_networks

    model = example_networks.network(settings.stepped, settings.seed)
    x, y = example_networks.regression(settings.stepped, settings.examples, settings.seed)
    curves = {}
    for name, factory in descent.OPTIMIZERS.items():
        points = descent.descend(
            model,
            lambda net: (net(x) - y).square().mean(),
            x,
            factory,
            time=settings.descent_time,
            lrs=settings.lrs,
        )
        curves[name] = points
        key = name.split(" 0")[0].replace(" ", "_").lower()
        values[f"slope_{key}"] = exponent(points)
        values[f"drift_{key}_at_least_step"] = min(points)[1]
        folder.record({"optimizer": name, "points": points})
    return curves


def _decay(settings: Settings) -> float:
    """With weight decay lambda, D(t) = exp(-2 lambda t) D(0): the largest error, relative to the largest entry of D(0)."""
    from gracile.dynamics import example_networks, find, gradient_flow

    model = example_networks.network(settings.stepped, settings.seed)
    x, y = example_networks.regression(settings.stepped, settings.examples, settings.seed)
    junctions = find(model, x)
    start = copy.deepcopy([one.difference(_parameters(model)) for one in junctions])

    def loss(net: nn.Module) -> torch.Tensor:
        size = torch.stack([one.square().sum() for one in net.parameters()]).sum()
        return (net(x) - y).square().mean() + settings.weight_decay / 2 * size

    gradient_flow(model, loss, time=settings.time, tolerance=settings.tolerance)
    factor = math.exp(-2 * settings.weight_decay * settings.time)
    errors = [
        ((one.difference(_parameters(model)) - factor * then).abs().max() / then.abs().max()).item()
        for one, then in zip(junctions, start, strict=True)
    ]
    return float(np.max(errors))
