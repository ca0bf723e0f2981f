"""Recipes of kind `conserved`: what gradient flow conserves, what it moves, and what optimisers with steps make of it."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from gracile.core.console import told
from gracile.core.figures import new_figure
from gracile.core.power_law import exponent
from gracile.core.runs import RunFolder
from gracile.dynamics import Drift, decay_error, descent, example_networks, flow_drift, pictures
from gracile.dynamics.flow import Loss
from gracile.recipes.kinds import Outcome
from gracile.recipes.schema import Strict

MUST, FREE = "drift of what must stay", "drift of the rest"


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

    def task(self, name: str) -> tuple[nn.Module, Loss, Tensor]:
        """A network, its mean squared error, and inputs."""
        x, y = example_networks.regression(name, self.examples, self.seed)
        return example_networks.network(name, self.seed), lambda model: (model(x) - y).square().mean(), x


def execute(settings: Settings, folder: RunFolder) -> Outcome:
    """Flow, descend, decay."""
    found, flowed, stepped = Outcome(), {}, {}
    for name in settings.networks:
        flowed |= _flow(settings, name, folder, found)
    for case in ("full", "pattern", "diagonal", "none"):
        rows = [row for row in found.rows if row["conserved"] == case]
        if case != "none":
            found.values[f"drift_{case}"] = max((row[MUST] for row in rows), default=0.0)
        if case != "full":
            found.values[f"moved_{case}"] = max((row[FREE] for row in rows), default=0.0)
    model, loss, x = settings.task(settings.stepped)
    for name, factory in descent.OPTIMIZERS.items():
        points = descent.descend(model, loss, x, factory, time=settings.descent_time, lrs=settings.lrs)
        stepped[name] = points
        key = name.split(" 0")[0].replace(" ", "_").lower()
        found.values[f"slope_{key}"] = exponent(points)
        found.values[f"drift_{key}_at_least_step"] = min(points)[1]
        folder.record({"optimizer": name, "points": points})
    found.values["weight_decay_error"] = decay_error(
        model, loss, x, weight_decay=settings.weight_decay, time=settings.time, tolerance=settings.tolerance
    )
    title = "gradient flow: what must stay (rounding) and what moves"
    flow = pictures.drift_curves(flowed, xlabel="time", title=title, figure=new_figure(9.5, 4.2))
    title = "optimisers: drift after the same time"
    steps = pictures.drift_curves(stepped, xlabel="step size", title=title, figure=new_figure(7.5, 4.0))
    return Outcome(found.rows, found.values, {"flow": flow, "steps": steps})


def _flow(settings: Settings, name: str, folder: RunFolder, found: Outcome) -> dict[str, list[tuple[float, float]]]:
    """A row for each junction; the two curves of the picture."""
    junctions, flow = flow_drift(
        *settings.task(name), time=settings.time, tolerance=settings.tolerance, records=settings.records
    )
    largest = lambda drifts: Drift(*map(max, zip(*drifts, strict=True)))
    for time, drifts in flow.observed:
        named = {one.name: drift for one, drift in zip(junctions, drifts, strict=True)}
        folder.record({"network": name, "time": time, "drift": named})
    for number, one in enumerate(junctions):
        must, free = largest(drifts[number] for _, drifts in flow.observed)
        row = {"network": name, "junction": one.name, "case": one.case, "conserved": one.invariance}
        found.rows.append({**row, MUST: must, FREE: free, "until": flow.time})
    told.info("%s: loss %.4g -> %.4g, to time %.4g", name, *flow.losses, flow.time)
    all_of = [(time, largest(drifts)) for time, drifts in flow.observed]
    return {
        f"{name}, must stay": [(time, drift.conserved) for time, drift in all_of],
        f"{name}, moves": [(time, drift.free) for time, drift in all_of],
    }
