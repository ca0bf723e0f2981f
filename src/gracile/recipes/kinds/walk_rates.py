"""Recipes of kind `walk-rates`: the rates of theorems 2.3 to 2.6 for senile walks, exact, checked by simulation."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from gracile.core.console import told
from gracile.core.runs import RunFolder
from gracile.recipes.kinds import Outcome
from gracile.recipes.schema import Strict
from gracile.walks import SenileWalk, pictures, rates


class Walk(Strict):
    """Which walk.

    Attributes:
        dim: d.
        noise: "none" for model I, else a noise of `gracile.walks`.
    """

    dim: int
    noise: str

    @property
    def law(self) -> str | None:
        """The noise as the library takes it."""
        return None if self.noise == "none" else self.noise


class Law(Walk):
    """One curve.

    Attributes:
        decades: the values of -log10 delta, increasing.
        fit_last: how many of the smallest deltas the slope is fitted to.
    """

    decades: list[float] = Field(min_length=3)
    fit_last: int = Field(default=3, ge=2)


class Check(Walk):
    """A simulation against the exact value: `walkers` take `steps` each, at strength `delta`."""

    delta: float
    steps: int
    walkers: int


class WalkClock(Walk):
    """A growing noise that counts the steps of the walk, simulated step by step.

    Attributes:
        delta: strength.
        times: two times; the exponent of E|S_n|^2 is measured between them.
        walkers: how many.
    """

    delta: float
    times: list[int] = Field(min_length=2, max_length=2)
    walkers: int


class Tail(Walk):
    """A law that changes with n: n P(tau >= n) up to n = `terms`, and the sum that is E[tau] so far, at strength `delta`."""

    delta: float
    terms: int = Field(ge=10)


class Settings(Strict):
    """What a rates recipe may set.

    Attributes:
        laws: the curves.
        checks: simulations.
        walk_clock: model III by the clock of the walk.
        tails: model III by how long an edge holds.
        tolerance: gain / axis counts as seen where it is within this of the predicted slope.
        seed: of the simulations.
    """

    laws: list[Law]
    checks: list[Check] = Field(default_factory=list)
    walk_clock: list[WalkClock] = Field(default_factory=list)
    tails: list[Tail] = Field(default_factory=list)
    tolerance: float = 0.05
    seed: int = 1


def execute(settings: Settings, folder: RunFolder) -> Outcome:
    """Run the sweeps and checks."""
    found, plots = Outcome(), {}
    curves: dict[int, dict[str, Any]] = {}
    for law in settings.laws:
        curves.setdefault(law.dim, {})[law.noise] = _sweep(law, settings.tolerance, folder, found)
    checked = [_check(check, settings.seed + number, folder) for number, check in enumerate(settings.checks)]
    found.rows.extend(checked)
    if checked:
        found.values["worst_z"] = max(abs(row["z"]) for row in checked)
    for clocked in settings.walk_clock:
        _walk_clock(clocked, settings.seed, folder, found)
    for tail in settings.tails:
        _tail(tail, folder, found)
    for dim, rated in curves.items():
        file = folder.path / "plots" / f"rates-d{dim}.svg"
        plots[file.stem] = pictures.rates(file, dim, rated, f"d = {dim}: exact against predicted")
    # Plain floats: what numpy returns does not go into JSON.
    return Outcome(found.rows, {name: float(value) for name, value in found.values.items()}, plots, found.notes)


def _key(*parts: object) -> str:
    return "_".join(str(part) for part in parts).replace("-", "_").replace(":", "_").replace(".", "_")


def _sweep(law: Law, tolerance: float, folder: RunFolder, found: Outcome) -> tuple[rates.Rate, list[rates.Point]]:
    """A curve's row, values and note; the curve with its rate."""
    label = _key(f"d{law.dim}", law.noise)
    told.info("sweep d=%d noise=%s", law.dim, law.noise)
    held = rates.held_against(law.dim, law.law, law.decades, fit_last=law.fit_last, tolerance=tolerance)
    rate, last = held.derived, held.points[-1]
    for point in held.points:
        folder.record({"law": label, **vars(point)})
    numbers = {
        "slope": held.slope,
        "slope_ratio": held.slope / rate.slope,
        "end_ratio": held.end_ratio,
        "published_growth": held.growth,
        "relative_error_bound": held.error_bound,
        "decades_to_see": held.seen,
    }
    found.values.update({f"{label}_{name}": value for name, value in numbers.items() if value is not None})
    if held.axis != rate.axis:
        found.notes.append(
            f"d = {law.dim}, {law.noise}: the theorem names {held.axis}; exact values follow {rate.axis} "
            f"(gain over the theorem's axis grows by {held.growth:.3g} over the last step of delta)."
        )
    when = f"delta = 10^-{held.seen:g}" if held.seen is not None else f"not by 10^-{law.decades[-1]:g}"
    found.rows.append({
        "d": law.dim, "noise": law.noise, "theorem": held.axis, "axis": rate.axis, "predicted slope": rate.slope,
        "fitted slope": held.slope, "last gain/axis": last.gain / last.x, f"seen to {tolerance:.0%}": when,
    })  # fmt: skip
    return rate, held.points


def _check(check: Check, seed: int, folder: RunFolder) -> dict[str, Any]:
    walk = SenileWalk(check.dim, delta=check.delta, noise=check.law)
    exact = walk.diffusivity()
    told.info("simulate d=%d noise=%s delta=%g", check.dim, check.noise, check.delta)
    seen = walk.simulate(check.steps, check.walkers, seed)
    row = {
        "d": check.dim, "noise": check.noise, "delta": check.delta, "nu exact": exact.nu, "nu simulated": seen.nu,
        "standard error": seen.nu_error, "z": (seen.nu - exact.nu) / seen.nu_error,
    }  # fmt: skip
    folder.record({**row, "steps": check.steps, "walkers": check.walkers, "method": seen.method, "seed": seed})
    return row


def _walk_clock(given: WalkClock, seed: int, folder: RunFolder, found: Outcome) -> None:
    walk = SenileWalk(given.dim, delta=given.delta, noise=given.law, clock="walk")
    first, last = given.times
    before, after = walk.simulate(last, given.walkers, seed, records=given.times).mean_square
    exponent = math.log(after / before) / math.log(last / first)
    found.values[_key("walk_clock_exponent", f"d{given.dim}", given.noise)] = exponent
    found.notes.append(
        f"d = {given.dim}, {given.noise}, n the step of the walk instead of the count of crossings: E|S_n|^2 grows like "
        f"n^{exponent:.3f} between {first} and {last} steps, because the noise ends up breaking every edge at once."
    )
    row = {
        "d": given.dim,
        "noise": f"{given.noise}, clock of the walk",
        "delta": given.delta,
        "exponent of n": exponent,
    }
    found.rows.append(row)
    folder.record(row)


def _tail(given: Tail, folder: RunFolder, found: Outcome) -> None:
    survival = SenileWalk(given.dim, delta=given.delta, noise=given.law).tau_survival(given.terms)
    before = given.terms // 10
    last, sums = given.terms * survival[-1], (survival[:before].sum(), survival.sum())
    label = _key(f"d{given.dim}", given.noise)
    found.values[f"{label}_tail"] = last
    # Over the last decade of n: 1 where P(tau >= n) falls like 1/n, so that E[tau] grows without end; 0 where it ends.
    found.values[f"{label}_tail_ratio"] = last / (before * survival[before - 1]) if survival[before - 1] > 0 else 0.0
    found.values[f"{label}_mean_growth"] = sums[1] - sums[0]
    row = {
        "d": given.dim, "noise": given.noise, "delta": given.delta, "n": given.terms, "n P(tau >= n)": last,
        "E[tau] up to n/10": sums[0], "E[tau] up to n": sums[1],
    }  # fmt: skip
    found.rows.append(row)
    folder.record(row)
