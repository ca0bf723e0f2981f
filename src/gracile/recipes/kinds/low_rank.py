"""Recipes of kind `low-rank`: theorem 2 and corollary 1, followed to losses far below any floating-point number."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from pydantic import Field

from gracile.core.console import told
from gracile.core.figures import new_figure
from gracile.core.runs import RunFolder
from gracile.dynamics import example_networks, log_logistic, normalised_flow, pictures, watch
from gracile.dynamics.bounds import lemma_11_slack
from gracile.dynamics.junctions import parameters_of
from gracile.dynamics.spectra import alignment
from gracile.recipes.kinds import Outcome
from gracile.recipes.schema import Strict


class Far(Strict):
    """One network.

    Attributes:
        network: a row of `gracile.dynamics.example_networks.NETWORKS`.
        until: natural logarithm of the loss to reach.
        tolerance: of the adaptive solver.
        step: fixed arc length a step, for networks with ReLUs.
    """

    network: str
    until: float = Field(lt=-1.0)
    tolerance: float = 1e-8
    step: float | None = None


class Settings(Strict):
    """What a low-rank recipe may set.

    Attributes:
        runs: the networks.
        examples: in the separable data.
        records: along each run.
        blocks: random ones, for lemma 11.
        seed: of all.
    """

    runs: list[Far]
    examples: int = 16
    records: int = 40
    blocks: int = 2000
    seed: int = 1


def execute(settings: Settings, folder: RunFolder) -> Outcome:
    """Run every network, then lemma 11."""
    found, plots = Outcome(), {}
    for far in settings.runs:
        plots |= _one(settings, far, folder, found)
    slack, tight = lemma_11_slack(settings.blocks, settings.seed)
    found.values.update({"lemma_11_least_slack": slack, "lemma_11_tight_slack": tight})
    return Outcome(found.rows, found.values, plots)


def _one(settings: Settings, far: Far, folder: RunFolder, found: Outcome) -> dict[str, Figure]:
    """A row for each layer of one network, what criteria speak of, and its pictures."""
    model = example_networks.network(far.network, settings.seed)
    x, y = example_networks.separable(far.network, settings.examples, settings.seed)
    monitor = watch(model, x)
    junctions, limits = monitor.junctions, {link.junction.name: link for link in monitor.tail}
    exact: list[dict[str, float]] = []

    def observe(log_loss: float) -> None:
        row = monitor.record(full=True)
        # A few warm steps of power iteration do not resolve an alignment of five nines.
        exact.append({one.name: alignment(*one.stacked(parameters_of(model), biases=False)) for one in junctions})
        folder.record({"network": far.network, "log_loss": log_loss, **{k: v for k, v in row.items() if k != "step"}})

    flow = normalised_flow(
        model, lambda net: log_logistic(net(x)[:, 0] * y), until=far.until, tolerance=far.tolerance, step=far.step,
        at=(-np.geomspace(1.0, -far.until, settings.records)).tolist(), observe=observe,
    )  # fmt: skip
    held, tail_least, tail_apart = 0.0, 1.0, 0.0
    for one in junctions:
        numbers = monitor.rows[-1]["junctions"][one.name]
        squares = np.square(numbers["singular_values"])
        ratio, apart = float(squares[0] / squares.sum()), 1 - exact[-1][one.name]
        row: dict[str, Any] = dict(zip(("W", "read by"), one.name.split(" -> "), strict=True))
        row |= {"log loss": flow.log_loss, "ratio": ratio, "1 - alignment": apart}
        row["drift conserved"] = numbers.get("drift_conserved")
        if one.name in limits:
            link = limits[one.name]
            value, bound, whole = link.bound(parameters_of(model))
            row |= {"|W|_2^2": value, "bound (13)": bound, "limit": 1 / link.factor, "paper's limit": 1 / link.paper}
            held = max(held, (bound - value) / whole)
            if link.factor == 1:
                tail_least, tail_apart = min(tail_least, ratio), max(tail_apart, apart)
        found.rows.append({"network": far.network, **row})
    key = far.network.replace("-", "_")
    found.values[f"{key}_log_loss"], found.values[f"{key}_bound_excess"] = flow.log_loss, held
    found.values[f"{key}_tail_ratio"], found.values[f"{key}_tail_misalignment"] = tail_least, tail_apart
    told.info("%s: log loss %.6g after %d steps, tail ratio %.5f", far.network, flow.log_loss, flow.steps, tail_least)
    kept = [number for number, (at, _) in enumerate(flow.observed) if at < -0.5]
    over, names = [-flow.observed[number][0] for number in kept], [one.name for one in junctions]
    of = lambda name, key: [monitor.rows[number]["junctions"][name][key] for number in kept]
    drawn = {
        "ratios": pictures.ratios(
            {name: list(zip(over, of(name, "ratio"), strict=True)) for name in names},
            {name: 1 / link.factor for name, link in limits.items()}, xlabel="-log loss", figure=new_figure(8.5, 3.8)),
        "spectra": pictures.spectra(
            over, {name.split(" -> ")[0]: of(name, "singular_values") for name in names},
            xlabel="-log loss", figure=new_figure(2.4 * len(names) + 1, 3.2)),
        "alignment": pictures.alignment_map(
            over, {name: [exact[number][name] for number in kept] for name in names},
            xlabel="-log loss", figure=new_figure(7.5, 3.0)),
    }  # fmt: skip
    return {f"{name}-{far.network}": figure for name, figure in drawn.items()}
