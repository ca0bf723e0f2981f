"""Recipes of kind `one-layer`: theorems 3.1 and 3.2 on relaxed splitting, every statement as a number over many starts."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from gracile.core.runs import RunFolder
from gracile.recipes.kinds import Outcome
from gracile.recipes.schema import Strict

if TYPE_CHECKING:
    from gracile.one_layer import Verification

log = logging.getLogger("gracile")


class Settings(Strict):
    """What a recipe of the one-layer theory may set.

    Attributes:
        theorem: ``3.1`` (ReLU) or ``3.2`` (step function).
        d: dimension of a patch.
        k: patches.
        nonzero: entries of the teacher that are not zero.
        starts: random ones on the unit sphere.
        steps: of each.
        penalties: rows of `gracile.penalties.ELEMENTWISE`.
        deltas: the theorem's delta; beta is the largest it admits, lr the largest that beta admits.
        ratio: weights up to ``ratio/sqrt(d)`` are zero in u; below 1 for the hypothesis on lam.
        curve_starts: random starts for each point of the curves.
        couplings: beta over the largest that any start admits, for the curve in beta; above 1 no hypothesis holds.
        dims: for the curve in d, at `curve_delta`.
        samples: numbers of inputs for the iteration on data.
        sample_starts: of that iteration.
        sample_steps: of each.
        seed: of teacher, starts and inputs.
    """

    theorem: Literal["3.1", "3.2"]
    d: int = 50
    k: int = 10
    nonzero: int = 5
    starts: int = Field(default=10_000, ge=1)
    steps: int = Field(default=1500, ge=2)
    penalties: list[str] = Field(default=["l1", "l0", "transformed_l1"], min_length=1)
    deltas: list[float] = Field(min_length=2)
    ratio: float = Field(default=0.5, gt=0, lt=1)
    curve_starts: int = Field(default=2000, ge=1)
    couplings: list[float] = Field(default_factory=list)
    dims: list[int] = Field(default_factory=list)
    curve_delta: float = 0.8
    samples: list[int] = Field(default_factory=list)
    sample_starts: int = 4
    sample_steps: int = 200
    seed: int = 0


def execute(settings: Settings, folder: RunFolder) -> Outcome:
    """Run all parts; they take minutes at most, so nothing is kept of an interrupted one."""
    from gracile.one_layer import pictures

    folder.rewrite_metrics([])
    values: dict[str, float] = {}
    rows, distances, drawn = _theorem(settings, folder, values)
    panels = _curves(settings, folder, values)
    deviations = _samples(settings, folder, values)
    plots = folder.path / "plots"
    words = f"theorem {settings.theorem}, d = {settings.d}, k = {settings.k}, {settings.starts} random starts"
    delta = settings.deltas[-1]
    paths = {"trajectories": pictures.trajectories(plots / "trajectories.svg", drawn, words, delta)}
    if panels:
        paths["probabilities"] = pictures.probabilities(
            plots / "probabilities.svg", panels, f"Theorem {settings.theorem}"
        )
    lines = {"limit": ("β", "largest |w − w*|", distances)}
    if deviations:
        lines["finite samples"] = ("inputs n", "|w_n − w|, root mean square", {settings.penalties[0]: deviations})
    paths["powers"] = pictures.powers(plots / "powers.svg", lines)
    return Outcome(rows, values, paths, _notes(values))


def _theorem(
    settings: Settings, folder: RunFolder, values: dict[str, float]
) -> tuple[list[dict[str, Any]], dict[str, list[tuple[float, float]]], dict[str, Any]]:
    """Every penalty at every delta: rows, the largest distance by beta, and the trajectories at the last delta."""
    from gracile.core.power_law import exponent
    from gracile.one_layer import critical_lam, largest_beta, random_starts, sparse_teacher, verify

    w_star = sparse_teacher(settings.d, settings.nonzero, settings.seed)
    starts = random_starts(settings.starts, settings.d, settings.seed)
    rows, drawn = [], {}
    distances: dict[str, list[tuple[float, float]]] = {}
    for penalty in settings.penalties:
        for delta in settings.deltas:
            beta = largest_beta(settings.theorem, delta, settings.k)
            lam = critical_lam(penalty, beta, settings.d, settings.ratio)
            log.info("theorem %s: %s, delta %g", settings.theorem, penalty, delta)
            found = verify(
                settings.theorem, starts, w_star, settings.k, lam=lam, beta=beta, steps=settings.steps,
                delta=delta, penalty=penalty,
            )  # fmt: skip
            row, numbers = _measured(found, settings, delta, beta, lam)
            rows.append({"penalty": penalty, **row})
            folder.record({"penalty": penalty, **row, **numbers})
            for name, (number, most) in _extremes(numbers).items():
                values[name] = (max if most else min)(values.get(name, number), number)
            distances.setdefault(penalty, []).append((beta, row["largest |w - w*|"]))
            if delta == settings.deltas[-1]:
                drawn[penalty] = found.seen
    slopes = [exponent(points) for points in distances.values()]
    values["least_distance_exponent"], values["largest_distance_exponent"] = min(slopes), max(slopes)
    return rows, distances, drawn


def _measured(
    found: Verification, settings: Settings, delta: float, beta: float, lam: float
) -> tuple[dict[str, Any], dict[str, float]]:
    """A row of the table, and the numbers that criteria speak of, over the starts that the theorem admits."""
    from gracile.one_layer import gradient_ratio

    seen, limit, here = found.seen, found.limit, found.admitted
    lr = next(c.value for c in found.conditions.conditions if "step" in c.name)
    error = math.sqrt(max(found.exact * (1 - found.exact), 0.25 / len(here)) / len(here))
    admitted = float(here.double().mean())
    rose = (seen.lagrangian_rise_from > 0)[here].double().mean()
    turned = (seen.angle_rise_from > 0)[here].double().mean()
    row = {
        "delta": delta, "beta": beta, "lam": lam, "lr": lr,
        "admitted": admitted, "exact": found.exact, "concluded of these": float(found.concluded[here].double().mean()),
        "L rose somewhere": float(rose), "angle rose somewhere": float(turned),
        "largest angle": float(limit.theta[here].max()), "largest |w - w*|": float(limit.distance[here].max()),
        "zeros in u": float(seen.sparsity[-1][here].mean()), "support recovered": float(seen.support[-1][here].mean()),
    }  # fmt: skip
    numbers = {
        "z": abs(admitted - found.exact) / error,
        "concluded": row["concluded of these"],
        "lagrangian_rise_from": float(seen.lagrangian_rise_from[here].max()) / delta,
        "lagrangian_rose": float(rose),
        "lagrangian_rise": float(seen.lagrangian_rise[here].max()),
        "angle_rise_from": float(seen.angle_rise_from[here].max()) / delta,
        "potential_rise": float(seen.potential_rise[here].max()),
        "angle_over_delta": row["largest angle"] / delta,
        "residual": float(limit.residual[here].max()),
        "constant": float(limit.constant[here].min()),
    }
    if settings.theorem == "3.1":
        numbers["gradient_ratio"] = float(gradient_ratio(seen, settings.k, beta=beta, lr=lr)[here].max())
        bound = settings.k * math.pi / (math.pi - limit.theta)
        numbers["constant_over_bound"] = float((limit.constant / bound)[here].max())
    else:
        numbers["distance_over_bound"] = float((limit.distance / limit.bound)[here].max())
    return row, numbers


def _extremes(numbers: dict[str, float]) -> dict[str, tuple[float, bool]]:
    """The named value each number goes into, and whether the largest counts."""
    least = {"concluded", "constant"}
    return {("least_" if name in least else "largest_") + name: (at, name not in least) for name, at in numbers.items()}


def _curves(
    settings: Settings, folder: RunFolder, values: dict[str, float]
) -> dict[str, list[tuple[float, float, float, float]]]:
    """How often hypotheses and conclusions hold of a random start, against beta and against d."""
    from gracile.one_layer import largest_beta
    from gracile.one_layer.conditions import PEAK

    most = largest_beta(settings.theorem, PEAK if settings.theorem == "3.1" else math.pi / 2, settings.k)
    panels = {}
    if settings.couplings:
        panels["β over the largest admissible"] = [
            (share, *_shares(settings, settings.d, settings.nonzero, share * most)) for share in settings.couplings
        ]
    if settings.dims:
        beta = largest_beta(settings.theorem, settings.curve_delta, settings.k)
        panels[f"d, at δ = {settings.curve_delta:g}"] = [
            (d, *_shares(settings, d, max(1, d * settings.nonzero // settings.d), beta)) for d in settings.dims
        ]
    for name, points in panels.items():
        folder.record({"curve": name, "columns": ["x", "exact", "hypotheses", "conclusions"], "points": points})
        for x, exact, measured, concluded in points:
            error = math.sqrt(max(exact * (1 - exact), 0.25 / settings.curve_starts) / settings.curve_starts)
            values["largest_z"] = max(values.get("largest_z", 0.0), abs(measured - exact) / error)
            key = "d" if name.startswith("d") else "beta"
            values[f"hypotheses_at_{key}_{x:g}"], values[f"conclusions_at_{key}_{x:g}"] = measured, concluded
    return panels


def _shares(settings: Settings, d: int, nonzero: int, beta: float) -> tuple[float, float, float]:
    """Exact and measured share of starts that meet the hypotheses, and share that meet the conclusions."""
    from gracile.one_layer import critical_lam, random_starts, sparse_teacher, verify

    log.info("theorem %s: curve at d = %d, beta = %g", settings.theorem, d, beta)
    penalty = settings.penalties[0]
    found = verify(
        settings.theorem, random_starts(settings.curve_starts, d, settings.seed + 1),
        sparse_teacher(d, nonzero, settings.seed), settings.k, beta=beta, lam=critical_lam(penalty, beta, d, settings.ratio),
        steps=settings.steps, penalty=penalty, records=2,
    )  # fmt: skip
    return found.exact, float(found.admitted.double().mean()), float(found.concluded.double().mean())


def _samples(settings: Settings, folder: RunFolder, values: dict[str, float]) -> list[tuple[float, float]]:
    """The iteration on data beside the exact one."""
    from gracile.core.power_law import exponent
    from gracile.one_layer import (
        check_conditions,
        critical_lam,
        largest_beta,
        random_starts,
        sample_deviation,
        sparse_teacher,
    )

    if not settings.samples:
        return []
    penalty, delta = settings.penalties[0], settings.deltas[-1]
    beta = largest_beta(settings.theorem, delta, settings.k)
    lam = critical_lam(penalty, beta, settings.d, settings.ratio)
    setting = check_conditions(
        settings.theorem, k=settings.k, d=settings.d, lam=lam, beta=beta, lr=1e-9, theta=0.0, delta=delta
    )
    log.info("theorem %s: on data", settings.theorem)
    found = sample_deviation(
        settings.theorem, random_starts(settings.sample_starts, settings.d, settings.seed),
        sparse_teacher(settings.d, settings.nonzero, settings.seed), settings.k, settings.samples,
        # A sample's curvature exceeds the expected one.
        lam=lam, beta=beta, lr=setting.sufficient_lr / 2, steps=settings.sample_steps, penalty=penalty,
        seed=settings.seed,
    )  # fmt: skip
    for n, deviation in found:
        folder.record({"inputs": n, "deviation": deviation})
        values[f"deviation_at_{n}"] = deviation
    values["sample_exponent"] = exponent(found)
    return [(float(n), deviation) for n, deviation in found]


def _notes(values: dict[str, float]) -> list[str]:
    if values["largest_lagrangian_rose"] == 0:
        return []
    return [
        "Within the cone of angle delta L_beta is not monotone: of the starts admitted it rose somewhere there for up to "
        f"{100 * values['largest_lagrangian_rose']:.1f} %, by at most {values['largest_lagrangian_rise']:.2g} in one step. "
        "With c (1 - cos theta), whose gradient the coarse one is, in place of k theta/pi it never rose by more than "
        f"{max(values['largest_potential_rise'], 0.0):.1g}."
    ]
