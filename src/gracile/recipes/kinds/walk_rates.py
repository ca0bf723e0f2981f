"""Recipes of kind `walk-rates`: the rates of theorems 2.3 to 2.6 for senile walks, exact, checked by simulation."""

from __future__ import annotations

import logging
import math
from typing import Any

from pydantic import Field

from gracile.core.runs import RunFolder
from gracile.recipes.kinds import Outcome
from gracile.recipes.schema import Strict

log = logging.getLogger("gracile")


class Law(Strict):
    """One curve.

    Attributes:
        dim: d.
        noise: "none" for model I, else a noise of `gracile.walks`.
        decades: the values of -log10 delta, increasing.
        fit_last: how many of the smallest deltas the slope is fitted to.
    """

    dim: int
    noise: str
    decades: list[float] = Field(min_length=3)
    fit_last: int = Field(default=3, ge=2)


class Check(Strict):
    """A simulation against the exact value.

    Attributes:
        dim: of the walk.
        noise: of the walk.
        delta: of the walk.
        steps: of each walker.
        walkers: how many.
    """

    dim: int
    noise: str
    delta: float
    steps: int
    walkers: int


class WalkClock(Strict):
    """A growing noise that counts the steps of the walk, simulated step by step.

    Attributes:
        dim: of the walk.
        noise: of the walk.
        delta: of the walk.
        times: two times; the exponent of E|S_n|^2 is measured between them.
        walkers: how many.
    """

    dim: int
    noise: str
    delta: float
    times: list[int] = Field(min_length=2, max_length=2)
    walkers: int


class Settings(Strict):
    """What a rates recipe may set.

    Attributes:
        laws: the curves.
        checks: simulations.
        walk_clock: model III by the clock of the walk.
        tolerance: gain / axis counts as seen where it is within this of the predicted slope.
        seed: of the simulations.
    """

    laws: list[Law]
    checks: list[Check] = Field(default_factory=list)
    walk_clock: list[WalkClock] = Field(default_factory=list)
    tolerance: float = 0.05
    seed: int = 1


def _law(name: str) -> str | None:
    return None if name == "none" else name


def _key(*parts: object) -> str:
    return "_".join(str(part) for part in parts).replace("-", "_").replace(":", "_").replace(".", "_")


def execute(settings: Settings, folder: RunFolder) -> Outcome:
    """Run the sweeps and checks; they take minutes at most, so nothing is kept of an interrupted one."""
    from gracile.walks import pictures
    from gracile.walks.rates import derived

    rows: list[dict[str, Any]] = []
    values: dict[str, float] = {}
    notes: list[str] = []
    curves: dict[int, dict[str, Any]] = {}
    folder.rewrite_metrics([])
    for law in settings.laws:
        rows.append(_sweep(law, settings.tolerance, folder, values, notes, curves))
    worst = 0.0
    for number, check in enumerate(settings.checks):
        row = _check(check, settings.seed + number, folder)
        worst = max(worst, abs(row["z"]))
        rows.append(row)
    if settings.checks:
        values["worst_z"] = worst
    for clocked in settings.walk_clock:
        rows.append(_walk_clock(clocked, settings.seed, folder, values, notes))
    plots = {}
    for dim, found in curves.items():
        name = f"rates-d{dim}"
        rated = {law: (derived(dim, _law(law)), points) for law, points in found.items()}
        plots[name] = pictures.rates(
            folder.path / "plots" / f"{name}.svg", dim, rated, f"d = {dim}: exact against predicted"
        )
    # Plain floats: what numpy returns does not go into JSON.
    return Outcome(rows, {name: float(value) for name, value in values.items()}, plots, notes)


def _sweep(
    law: Law,
    tolerance: float,
    folder: RunFolder,
    values: dict[str, float],
    notes: list[str],
    curves: dict[int, dict[str, Any]],
) -> dict[str, Any]:
    from gracile.walks import rates

    noise, label = _law(law.noise), _key("d", law.dim, law.noise).replace("d_", "d", 1)
    rate = rates.derived(law.dim, noise)
    axis, x = rates.published(law.dim, noise)
    log.info("sweep d=%d noise=%s", law.dim, law.noise)
    points = rates.sweep(law.dim, noise, law.decades)
    curves.setdefault(law.dim, {})[law.noise] = points
    for point in points:
        folder.record({"law": label, **vars(point)})
    last = points[-law.fit_last :]
    slope = rates.fitted(last)
    seen = rates.reach(points, rate.slope, tolerance)
    # By the theorem's own axis: O(x) holds if gain / x stays bounded, and is sharp if it tends to a constant.
    size = [p.decades * math.log(10) for p in points]
    growth = (points[-1].gain / x(size[-1])) / (points[-2].gain / x(size[-2]))
    values[f"{label}_slope"] = slope
    values[f"{label}_slope_ratio"] = slope / rate.slope
    values[f"{label}_end_ratio"] = points[-1].gain / points[-1].x / rate.slope
    values[f"{label}_published_growth"] = growth
    values[f"{label}_relative_error_bound"] = max(p.error_bound / abs(p.gain) for p in points)
    if seen is not None:
        values[f"{label}_decades_to_see"] = seen
    if axis != rate.axis:
        notes.append(
            f"d = {law.dim}, {law.noise}: the theorem names {axis}; "
            f"exact values follow {rate.axis} "
            f"(gain over the theorem's axis grows by {growth:.3g} over the last step of delta)."
        )
    when = f"delta = 10^-{seen:g}" if seen is not None else f"not by 10^-{law.decades[-1]:g}"
    return {
        "d": law.dim,
        "noise": law.noise,
        "theorem": axis,
        "axis": rate.axis,
        "predicted slope": rate.slope,
        "fitted slope": slope,
        "last gain/axis": points[-1].gain / points[-1].x,
        f"seen to {tolerance:.0%}": when,
    }


def _check(check: Check, seed: int, folder: RunFolder) -> dict[str, Any]:
    from gracile.walks import SenileWalk

    walk = SenileWalk(check.dim, delta=check.delta, noise=_law(check.noise))
    exact = walk.diffusivity()
    log.info("simulate d=%d noise=%s delta=%g", check.dim, check.noise, check.delta)
    found = walk.simulate(check.steps, check.walkers, seed)
    z = (found.nu - exact.nu) / found.nu_error
    row = {
        "d": check.dim,
        "noise": check.noise,
        "delta": check.delta,
        "nu exact": exact.nu,
        "nu simulated": found.nu,
        "standard error": found.nu_error,
        "z": z,
    }
    folder.record({**row, "steps": check.steps, "walkers": check.walkers, "method": found.method, "seed": seed})
    return row


def _walk_clock(
    given: WalkClock, seed: int, folder: RunFolder, values: dict[str, float], notes: list[str]
) -> dict[str, Any]:
    from gracile.walks import SenileWalk

    walk = SenileWalk(given.dim, delta=given.delta, noise=_law(given.noise), clock="walk")
    found = walk.simulate(given.times[1], given.walkers, seed, records=given.times)
    exponent = math.log(found.mean_square[1] / found.mean_square[0]) / math.log(given.times[1] / given.times[0])
    values[_key("walk_clock_exponent", f"d{given.dim}", given.noise)] = exponent
    notes.append(
        f"d = {given.dim}, {given.noise}, n the step of the walk instead of the count of crossings: "
        f"E|S_n|^2 grows like n^{exponent:.3f} "
        f"between {given.times[0]} and {given.times[1]} steps, because the noise ends up breaking every edge at once."
    )
    row = {
        "d": given.dim,
        "noise": f"{given.noise}, clock of the walk",
        "delta": given.delta,
        "exponent of n": exponent,
    }
    folder.record(row)
    return row
