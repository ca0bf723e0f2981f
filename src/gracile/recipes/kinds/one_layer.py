"""Recipes of kind `one-layer`: theorems 3.1 and 3.2 on relaxed splitting, every statement as a number over many starts."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field

from gracile import one_layer
from gracile.core.console import told
from gracile.core.power_law import exponent
from gracile.core.runs import RunFolder
from gracile.one_layer import Verification, pictures
from gracile.one_layer.conditions import PEAK
from gracile.one_layer.measures import LEAST, share_error, statements
from gracile.recipes.kinds import Outcome
from gracile.recipes.schema import Strict

Points = list[tuple[float, float]]


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

    def coupling(self, delta: float) -> float:
        """The largest beta that the theorem admits."""
        return one_layer.largest_beta(self.theorem, delta, self.k)

    def run(
        self, penalty: str, beta: float, starts: int, *, seed: int, d: int, nonzero: int, **options: Any
    ) -> Verification:
        """The iteration from random starts, lam zeroing weights up to `ratio`."""
        return one_layer.verify(
            self.theorem, one_layer.random_starts(starts, d, seed), one_layer.sparse_teacher(d, nonzero, self.seed), self.k, beta=beta,
            lam=one_layer.critical_lam(penalty, beta, d, self.ratio), steps=self.steps, penalty=penalty, **options,
        )  # fmt: skip


def execute(settings: Settings, folder: RunFolder) -> Outcome:
    """The theorem at every delta, curves of probabilities, and the iteration on data."""
    found, plots = Outcome(), folder.path / "plots"
    distances, drawn = _theorem(settings, folder, found)
    panels = _curves(settings, folder, found.values)
    deviations = _samples(settings, folder, found.values)
    words = f"theorem {settings.theorem}, d = {settings.d}, k = {settings.k}, {settings.starts} random starts"
    paths = {"trajectories": pictures.trajectories(plots / "trajectories.svg", drawn, words, settings.deltas[-1])}
    if panels:
        title = f"Theorem {settings.theorem}"
        paths["probabilities"] = pictures.probabilities(plots / "probabilities.svg", panels, title)
    lines = {"limit": ("β", "largest |w − w*|", distances)}
    if deviations:
        lines["finite samples"] = ("inputs n", "|w_n − w|, root mean square", {settings.penalties[0]: deviations})
    paths["powers"] = pictures.powers(plots / "powers.svg", lines)
    return Outcome(found.rows, found.values, paths, _notes(found.values))


def _theorem(settings: Settings, folder: RunFolder, found: Outcome) -> tuple[dict[str, Points], dict[str, Any]]:
    """Every penalty at every delta: rows; the largest distance by beta, and the trajectories at the last delta."""
    drawn, values = {}, found.values
    distances: dict[str, Points] = {penalty: [] for penalty in settings.penalties}
    for penalty in settings.penalties:
        for delta in settings.deltas:
            told.info("theorem %s: %s, delta %g", settings.theorem, penalty, delta)
            beta = settings.coupling(delta)
            verified = settings.run(
                penalty, beta, settings.starts, seed=settings.seed, d=settings.d, nonzero=settings.nonzero, delta=delta
            )
            numbers = statements(verified, settings.k, delta=delta, beta=beta)
            lam = one_layer.critical_lam(penalty, beta, settings.d, settings.ratio)
            row = {"penalty": penalty, "delta": delta, "beta": beta, "lam": lam, **_row(verified, numbers)}
            found.rows.append(row)
            folder.record({**row, **numbers})
            for name, number in numbers.items():
                extreme, key = (min, f"least_{name}") if name in LEAST else (max, f"largest_{name}")
                values[key] = extreme(values.get(key, number), number)
            distances[penalty].append((beta, row["largest |w - w*|"]))
            drawn[penalty] = verified.seen
    slopes = [exponent(points) for points in distances.values()]
    values["least_distance_exponent"], values["largest_distance_exponent"] = min(slopes), max(slopes)
    return distances, drawn


def _row(found: Verification, numbers: dict[str, float]) -> dict[str, float]:
    """What the table tells of the starts that the theorem admits."""
    seen, limit, here = found.seen, found.limit, found.admitted
    return {
        "lr": next(one.value for one in found.conditions.conditions if "step" in one.name),
        "admitted": float(here.double().mean()),
        "exact": found.exact,
        "concluded of these": numbers["concluded"],
        "L rose somewhere": numbers["lagrangian_rose"],
        "angle rose somewhere": float((seen.angle_rise_from > 0)[here].double().mean()),
        "largest angle": float(limit.theta[here].max()),
        "largest |w - w*|": float(limit.distance[here].max()),
        "zeros in u": float(seen.sparsity[-1][here].mean()),
        "support recovered": float(seen.support[-1][here].mean()),
    }


def _curves(
    settings: Settings, folder: RunFolder, values: dict[str, float]
) -> dict[str, list[tuple[float, float, float, float]]]:
    """How often hypotheses and conclusions hold of a random start, against beta and against d."""
    most = settings.coupling(PEAK if settings.theorem == "3.1" else math.pi / 2)
    beta = settings.coupling(settings.curve_delta) if settings.dims else math.nan
    panels = {
        "β over the largest admissible": [
            (share, *_shares(settings, settings.d, settings.nonzero, share * most)) for share in settings.couplings
        ],
        f"d, at δ = {settings.curve_delta:g}": [
            (d, *_shares(settings, d, max(1, d * settings.nonzero // settings.d), beta)) for d in settings.dims
        ],
    }
    panels = {name: points for name, points in panels.items() if points}
    for name, points in panels.items():
        folder.record({"curve": name, "columns": ["x", "exact", "hypotheses", "conclusions"], "points": points})
        key = "d" if name.startswith("d") else "beta"
        for x, exact, measured, concluded in points:
            z = abs(measured - exact) / share_error(exact, settings.curve_starts)
            values["largest_z"] = max(values.get("largest_z", 0.0), z)
            values[f"hypotheses_at_{key}_{x:g}"], values[f"conclusions_at_{key}_{x:g}"] = measured, concluded
    return panels


def _shares(settings: Settings, d: int, nonzero: int, beta: float) -> tuple[float, float, float]:
    """Exact and measured share of starts that meet the hypotheses, and share that meet the conclusions."""
    told.info("theorem %s: curve at d = %d, beta = %g", settings.theorem, d, beta)
    found = settings.run(
        settings.penalties[0], beta, settings.curve_starts, seed=settings.seed + 1, d=d, nonzero=nonzero, records=2
    )
    return found.exact, float(found.admitted.double().mean()), float(found.concluded.double().mean())


def _samples(settings: Settings, folder: RunFolder, values: dict[str, float]) -> Points:
    """The iteration on data beside the exact one: its deviation by the number of inputs."""
    if not settings.samples:
        return []
    theorem, penalty, delta = settings.theorem, settings.penalties[0], settings.deltas[-1]
    beta = settings.coupling(delta)
    lam = one_layer.critical_lam(penalty, beta, settings.d, settings.ratio)
    setting = one_layer.check_conditions(
        theorem, k=settings.k, d=settings.d, lam=lam, beta=beta, lr=1e-9, theta=0.0, delta=delta
    )
    told.info("theorem %s: on data", theorem)
    found = one_layer.sample_deviation(
        theorem, one_layer.random_starts(settings.sample_starts, settings.d, settings.seed),
        one_layer.sparse_teacher(settings.d, settings.nonzero, settings.seed), settings.k, settings.samples,
        # A sample's curvature exceeds the expected one.
        lam=lam, beta=beta, lr=setting.sufficient_lr / 2, steps=settings.sample_steps, penalty=penalty, seed=settings.seed,
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
