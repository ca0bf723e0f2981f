"""Recipes of kind `low-rank`: theorem 2 and corollary 1, followed to losses far below any floating-point number."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from pydantic import Field

from gracile.core.runs import RunFolder
from gracile.recipes.kinds import Outcome
from gracile.recipes.schema import Strict
from gracile.report.figures import new_figure, save_all

log = logging.getLogger("gracile")


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
    """Run every network; minutes at most, so nothing is kept of an interrupted run."""
    rows: list[dict[str, Any]] = []
    values: dict[str, float] = {}
    plots = {}
    folder.rewrite_metrics([])
    for far in settings.runs:
        found, drawn = _one(settings, far, folder, values)
        rows += found
        plots.update(drawn)
    values.update(_lemma_11(settings.blocks, settings.seed))
    return Outcome(rows, values, plots)


def _one(
    settings: Settings, far: Far, folder: RunFolder, values: dict[str, float]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    from gracile.dynamics import bounds, example_networks, pictures, watch
    from gracile.dynamics.far import log_logistic, normalised_flow
    from gracile.dynamics.spectra import alignment

    model = example_networks.network(far.network, settings.seed)
    x, y = example_networks.separable(far.network, settings.examples, settings.seed)
    monitor = watch(model, x)
    exact: list[dict[str, float]] = []

    def parameters() -> dict[str, torch.Tensor]:
        return {name: one.detach() for name, one in model.named_parameters()}

    def observe(log_loss: float) -> dict[str, Any]:
        row = monitor.record(full=True)
        # A few warm steps of power iteration do not resolve an alignment of five nines.
        exact.append({one.name: alignment(*one.stacked(parameters(), biases=False)) for one in monitor.junctions})
        folder.record({"network": far.network, "log_loss": log_loss, **{k: v for k, v in row.items() if k != "step"}})
        return row

    steps = (-np.geomspace(1.0, -far.until, settings.records)).tolist()
    flow = normalised_flow(
        model,
        lambda net: log_logistic(net(x)[:, 0] * y),
        until=far.until,
        tolerance=far.tolerance,
        step=far.step,
        at=steps,
        observe=observe,
    )
    last = monitor.rows[-1]
    limits = {link.junction.name: link for link in monitor.tail}
    rows, held, tail_least, tail_apart = [], 0.0, 1.0, 0.0
    for one in monitor.junctions:
        found = last["junctions"][one.name]
        squares = np.square(found["singular_values"])
        ratio = float(squares[0] / squares.sum())
        link: bounds.Link | None = limits.get(one.name)
        row: dict[str, Any] = {
            "network": far.network, "W": one.name.split(" -> ")[0], "read by": one.name.split(" -> ")[1], "log loss": flow.log_loss,
            "ratio": ratio, "1 - alignment": 1 - exact[-1][one.name],
            "drift conserved": found.get("drift_conserved"),
        }  # fmt: skip
        if link is not None:
            value, bound, whole = link.bound(parameters())
            row |= {"|W|_2^2": value, "bound (13)": bound, "limit": 1 / link.factor, "paper's limit": 1 / link.paper}
            held = max(held, (bound - value) / whole)
            if link.factor == 1:
                tail_least, tail_apart = min(tail_least, ratio), max(tail_apart, 1 - exact[-1][one.name])
        rows.append(row)
    key = far.network.replace("-", "_")
    values |= {
        f"{key}_log_loss": flow.log_loss, f"{key}_tail_ratio": tail_least, f"{key}_tail_misalignment": tail_apart,
        f"{key}_bound_excess": held,
    }  # fmt: skip
    log.info("%s: log loss %.6g after %d steps, tail ratio %.5f", far.network, flow.log_loss, flow.steps, tail_least)
    over = [-where for where, _ in flow.observed if where < -0.5]
    kept = [number for number, (where, _) in enumerate(flow.observed) if where < -0.5]
    history = [monitor.rows[number]["junctions"] for number in kept]
    names = [one.name for one in monitor.junctions]
    label = "-log loss"
    drawn = {
        "ratios": pictures.ratios(
            {n: [(o, h[n]["ratio"]) for o, h in zip(over, history, strict=True)] for n in names},
            {n: 1 / link.factor for n, link in limits.items()}, xlabel=label, figure=new_figure(8.5, 3.8)),
        "spectra": pictures.spectra(
            over, {n.split(" -> ")[0]: [h[n]["singular_values"] for h in history] for n in names},
            xlabel=label, figure=new_figure(2.4 * len(names) + 1, 3.2)),
        "alignment": pictures.alignment_map(
            over, {n: [exact[number][n] for number in kept] for n in names}, xlabel=label, figure=new_figure(7.5, 3.0)),
    }  # fmt: skip
    named = {f"{name}-{far.network}": figure for name, figure in drawn.items()}
    return rows, save_all(named, folder.path / "plots")


def _lemma_11(number: int, seed: int) -> dict[str, float]:
    """Lemma 11 with 2 in place of 8: the least slack over random blocks, and over blocks that meet it with equality."""
    from gracile.core.seeding import generator
    from gracile.dynamics.bounds import lemma_11

    draw = generator(seed, "lemma 11")
    random, tight = float("inf"), float("inf")
    for _ in range(number):
        a, h, b = (int(one) for one in torch.randint(1, 6, (3,), generator=draw))
        y, u, z = (torch.randn(s, generator=draw, dtype=torch.float64) for s in ((h, a), (b, h), (b, a)))
        left, right = lemma_11(y, u, z)
        random = min(random, (left - right) / left)
    # [Y; Z] adds up along one input direction what [U Z] keeps apart in two output directions.
    y, u, z = torch.tensor([[1.0], [0.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0], [1.0]])
    left, right = lemma_11(y.double(), u.double(), z.double())
    tight = (left - right) / left
    return {"lemma_11_least_slack": random, "lemma_11_tight_slack": tight}
