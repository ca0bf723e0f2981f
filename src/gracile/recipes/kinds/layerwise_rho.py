"""Kind of recipe: accuracy of ELM and SLFN against rho = nodes / inputs, and what each layer keeps of its input.

Beside the accuracies stand the exact inversion errors on the same samples and, for a mixture of Gaussians whose
densities are known, the mutual information I(y; t). From the data sets themselves it cannot be estimated soundly:
distinct samples stay distinct under almost every random layer, so a plug-in estimate gives H(t) at every rho.
"""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
from pydantic import Field

from gracile.core.collapse import of_several
from gracile.core.console import told
from gracile.core.errors import DataError, InputError
from gracile.core.runs import RunFolder
from gracile.data.batching import arrays
from gracile.layerwise.information import Mixture
from gracile.layerwise.saturation import mixture_sweep, rho_sweep
from gracile.recipes.arms import Part, Parts
from gracile.recipes.kinds import Outcome
from gracile.recipes.schema import Strict
from gracile.recipes.settings import Amounts
from gracile.recipes.tables import Results, Rows, collapsed, spread, with_error
from gracile.report import layerwise_figures

LEARNERS = ("elm", "slfn")
MIXTURE = "mixture"
ABOUT = (
    "Accuracies in percent, mean ± sample standard deviation over trials. 'inversion' is the largest |x - k(y)| / |x| of an "
    "SLFN; 'ELM recovered' the percentage of inputs that a random ReLU layer lets recover to 1e-6. I(y; t) is known for the "
    "mixture only."
)


class Swept(Amounts):
    """One data set of the sweep.

    Attributes:
        data: name or path.
        rhos: nodes per input.
        trials: seeds 0, 1, ...: of the weights, and of the split where the data have none of their own.
        lam: ridge strength, or "auto" (leave-one-out).
        optional: leave it out, with a note, where it is not found.
    """

    data: str
    rhos: list[float]
    trials: int = 10
    lam: float | str = "auto"
    validation: float | int = 0
    optional: bool = False


class MixtureSettings(Strict):
    """The mixture of Gaussians N(mean, I) on which the information is computed.

    Attributes:
        classes: Q.
        inputs: P.
        spread: standard deviation of the distance of a mean from the origin is about this.
        samples: of the Monte Carlo; as many train, and as many test, the learners.
        rhos: as for a data set.
        trials: as for a data set.
    """

    classes: int = 10
    inputs: int = 40
    spread: float = 6.0
    samples: int = 20000
    rhos: list[float] = Field(default=[0.25, 0.5, 1.0, 1.5, 2.0, 4.0, 8.0, 16.0])
    trials: int = 3


class Settings(Parts):
    """What a recipe of this kind may say.

    Attributes:
        sweeps: the data sets, by a short name.
        mixture: see there.
        inverted: test samples whose inversion is checked in each trial.
    """

    sweeps: dict[str, Swept]
    mixture: MixtureSettings = MixtureSettings()
    inverted: int = 20

    def names(self) -> list[str]:
        return [*self.sweeps, MIXTURE]

    def seeds_of(self, arm: str) -> list[int]:
        return list(range((self.mixture if arm == MIXTURE else self.sweeps[arm]).trials))

    def check(self, published: list[dict[str, Any]]) -> None:
        super().check(published)
        if MIXTURE in self.sweeps:
            raise InputError(f"A data set may not be called '{MIXTURE}'.", "Take another short name for it.")


def train(settings: Settings, part: Part) -> dict[str, Any]:
    """One trial on one data set: its note, and the points of the sweep; none where the data were not found."""
    told.info("%s", part.label)
    if part.arm == MIXTURE:
        asked = settings.mixture
        mixture = Mixture.random(asked.classes, asked.inputs, asked.spread, part.seed)
        points = mixture_sweep(mixture, asked.rhos, samples=asked.samples, inverted=settings.inverted, seed=part.seed)
        return {"note": "", "points": points}
    sweep = settings.sweeps[part.arm]
    try:
        splits = sweep.load(sweep.data, part.seed)
    except DataError:
        if not sweep.optional:
            raise
        return {"note": "", "points": []}
    train, test = arrays(splits.train), arrays(splits.test)
    # One factor for all features: pixels and counts come to [0, 1], so that the constant one of the bias weighs alike.
    top = float(np.abs(train[0]).max()) or 1.0
    points = rho_sweep(train, test, sweep.rhos, lam=sweep.lam, top=top, inverted=settings.inverted, seed=part.seed)
    return {"note": splits.test.note, "points": points}


def outcome(settings: Settings, folder: RunFolder, results: Results, published: Rows) -> Outcome:
    """Put table, values and figure together."""
    found, sweeps, rhos = Outcome(), {}, {}
    for name, trials in results.items():
        # Where a data set has no split of its own, its note names the seed of the split; the row stands for all of them.
        note = trials[0]["note"].replace(", seed 0", "")
        if not all(trial["points"] for trial in trials):
            found.notes.append(f"{name} is left out: it was not found.")
            continue
        # A short note belongs beside every number; a long one stands below the table.
        label = f"{name} ({note})" if 0 < len(note) < 40 else name
        label = "mixture of Gaussians" if name == MIXTURE else label
        found.notes.append(note and f"{name}: {note}.")
        series = _series(trials)
        rhos[label] = [rho for rho, *_ in series["rho"]]
        sweeps[label] = {key: series[key] for key in (*LEARNERS, "information") if key in series}
        found.rows.extend({"data": label, **row} for row in _rows(series))
        found.values.update(_values(name, rhos[label], series))
    figure = layerwise_figures.rho_sweep(sweeps, rhos)
    return Outcome(found.rows, found.values, {"rho": figure}, [*found.notes, ABOUT])


def _series(trials: Rows) -> dict[str, list[list[float]]]:
    """By number, per rho the values of all trials."""
    points = [trial["points"] for trial in trials]
    return {key: [[one[key] for one in place] for place in zip(*points, strict=True)] for key in points[0][0]}


def _rows(series: dict[str, list[list[float]]]) -> Rows:
    rows = []
    for place, (rho, n) in enumerate(zip(series["rho"], series["n"], strict=True)):
        row: dict[str, Any] = {"rho": rho[0], "n": n[0]}
        row |= {name.upper(): spread(series[name][place]) for name in LEARNERS}
        row |= {"trials": len(rho), "inversion": f"{max(series['inversion'][place]):.1e}"}
        for key, title, digits in (("recovered", "ELM recovered", 0), ("information", "I(y;t) nats", 4)):
            row[title] = f"{statistics.fmean(series[key][place]):.{digits}f}" if key in series else ""
        failed = {
            name: of_several([str(one) for one in series[f"{name}_collapsed"][place]], "trials")
            for name in LEARNERS
            if f"{name}_collapsed" in series
        }
        rows.append(row | collapsed([{"collapsed": f"{name.upper()} {how}"} for name, how in failed.items() if how]))
    return rows


def _values(name: str, rhos: list[float], series: dict[str, list[list[float]]]) -> dict[str, float]:
    """Numbers that criteria speak of.

    ``error_kept_after_2``: error at the largest rho over error at 2. Were 2 the point of saturation, it would be near 1.
    """
    values: dict[str, float] = {}
    for learner in LEARNERS:
        mean = dict(zip(rhos, map(statistics.fmean, series[learner]), strict=True))
        values |= {f"{name}_{learner}_rho{rho:g}": accuracy for rho, accuracy in mean.items()}
        if 2.0 in mean and rhos[-1] > 2:
            values[f"{name}_{learner}_error_kept_after_2"] = (100 - mean[rhos[-1]]) / max(100 - mean[2.0], 1e-9)
    for rho, elm, slfn in zip(rhos, series["elm"], series["slfn"], strict=True):
        leads = [one - two for one, two in zip(elm, slfn, strict=True)]
        values |= with_error(f"{name}_elm_over_slfn_rho{rho:g}", leads)
    worst = lambda key: list(zip(rhos, map(max, series[key]), strict=True))
    if above := [error for rho, error in worst("inversion") if rho >= 2]:
        values[f"{name}_inversion_from_2"] = max(above)
    if below := [error for rho, error in worst("inversion") if rho < 2]:
        values[f"{name}_inversion_below_2"] = min(below)
    if "information" in series:
        if lost := [lost for rho, lost in worst("information_lost") if rho >= 2]:
            values[f"{name}_information_lost_from_2"] = max(lost)
        values |= {f"{name}_information_lost_rho{rho:g}": lost for rho, lost in worst("information_lost")}
    return values
