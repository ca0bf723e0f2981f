"""Kind of recipe: accuracy of ELM and SLFN against rho = nodes / inputs, and what each layer keeps of its input.

Beside the accuracies stand the exact inversion errors on the same samples and, for a mixture of Gaussians whose
densities are known, the mutual information I(y; t). From the data sets themselves it cannot be estimated soundly:
distinct samples stay distinct under almost every random layer, so a plug-in estimate gives H(t) at every rho.
"""

from __future__ import annotations

import logging
import math
import statistics
from typing import Any

import numpy as np
import torch
from pydantic import Field

from gracile.core.errors import DataError, InputError
from gracile.core.runs import RunFolder
from gracile.data import Dataset
from gracile.layerwise import ELMClassifier, SLFNClassifier
from gracile.layerwise.information import Mixture, elm_inversion_error, mixture_information, slfn_inversion_error
from gracile.recipes.arms import Part, Parts
from gracile.recipes.kinds import Outcome
from gracile.recipes.schema import Strict
from gracile.recipes.settings import Amounts
from gracile.recipes.tables import spread
from gracile.report.figures import save_all
from gracile.report.layerwise_figures import rho_sweep

log = logging.getLogger("gracile")


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


ESTIMATORS = ("elm", "slfn")
MIXTURE = "mixture"


def train(settings: Settings, part: Part) -> dict[str, Any]:
    """One trial on one data set: its note, and the points of the sweep; none where the data were not found."""
    if part.arm == MIXTURE:
        return {"note": "", "points": _mixture_points(settings.mixture, part.seed, settings.inverted)}
    sweep, trial = settings.sweeps[part.arm], part.seed
    try:
        splits = sweep.load(sweep.data, trial)
    except DataError:
        if not sweep.optional:
            raise
        return {"note": "", "points": []}
    data = _arrays(splits.train), _arrays(splits.test)
    # One factor for all features: pixels and counts come to [0, 1], so that the constant one of the bias weighs alike.
    top = float(np.abs(data[0][0]).max()) or 1.0
    points = _points(*data, top, sweep.rhos, sweep.lam, trial, settings.inverted, f"{sweep.data} trial {trial}")
    return {"note": splits.test.note, "points": points}


def outcome(
    settings: Settings, folder: RunFolder, results: dict[str, list[dict[str, Any]]], published: list[dict[str, Any]]
) -> Outcome:
    """Put table, values and figure together."""
    labels: dict[str, str] = {}
    notes: list[str] = []
    found = {name: trials for name, trials in results.items() if all(trial["points"] for trial in trials)}
    for name, trials in results.items():
        # Where a data set has no split of its own, its note names the seed of the split; the row stands for all of them.
        note = trials[0]["note"].replace(", seed 0", "")
        # A short note belongs beside every number; a long one stands below the table.
        labels[name] = f"{name} ({note})" if 0 < len(note) < 40 else name
        if name not in found:
            notes.append(f"{name} is left out: it was not found.")
        elif note:
            notes.append(f"{name}: {note}.")
    labels[MIXTURE] = "mixture of Gaussians"
    rows = [{"data": labels[name], **row} for name, trials in found.items() for row in _rows(trials)]
    values = {key: value for name, trials in found.items() for key, value in _values(name, trials).items()}
    shown = {labels[name]: trials for name, trials in found.items()}
    figure = rho_sweep(
        {
            label: {key: _series(trials, key) for key in (*ESTIMATORS, "information") if key in trials[0]["points"][0]}
            for label, trials in shown.items()
        },
        {label: [point["rho"] for point in trials[0]["points"]] for label, trials in shown.items()},
    )
    notes.append(
        "Accuracies in percent, mean ± sample standard deviation over trials. 'inversion' is the largest |x - k(y)| "
        "/ |x| of an SLFN; 'ELM recovered' the percentage of inputs that a random ReLU layer lets recover to 1e-6. "
        "I(y; t) is known for the mixture only."
    )
    return Outcome(rows, values, save_all({"rho": figure}, folder.path / "plots"), notes)


def _arrays(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    return data.inputs[:].flatten(1).numpy(), data.labels.numpy()


def _points(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], top: float, rhos: list[float],
    lam: float | str, seed: int, inverted: int, what: str,
) -> list[dict[str, Any]]:  # fmt: skip
    """One trial: accuracies and inversion errors at each rho."""
    x, inputs = torch.from_numpy(test[0][:inverted]) / top, train[0].shape[1]
    points = []
    for rho in rhos:
        n = 2 * max(1, round(rho * inputs / 2))
        # The learner sees bytes divided by `top` chunk by chunk: scaling the ridge's inputs is scaling the first
        # weights.
        elm = ELMClassifier(n=n, lam=lam, scale=None, dtype="float32", seed=seed).fit_stream(
            lambda: _scaled(train, top), classes=np.unique(train[1])
        )
        slfn = SLFNClassifier(rho=n / inputs, lam=lam, scale=None, dtype="float32", seed=seed).fit_stream(
            lambda: _scaled(train, top), classes=np.unique(train[1])
        )
        known = np.isin(test[1], elm.classes_)
        point = {"rho": rho, "n": n}
        for name, model in (("elm", elm), ("slfn", slfn)):
            right = sum(int((model.predict(a) == b).sum()) for a, b in _scaled((test[0][known], test[1][known]), top))
            point[name] = 100 * right / len(test[1])
        point["inversion"] = float(slfn_inversion_error(x, n / inputs, seed).max())
        # The pseudo-inverse of every sample's own active rows is too slow on thousands of inputs.
        if inputs <= 800:
            point["recovered"] = 100 * float((elm_inversion_error(x, n / inputs, seed) < 1e-6).double().mean())
        points.append(point)
        log.info("%s: rho %g, ELM %.2f, SLFN %.2f", what, rho, point["elm"], point["slfn"])
    return points


def _scaled(data: tuple[np.ndarray, np.ndarray], top: float, rows: int = 4096) -> Any:
    for start in range(0, len(data[0]), rows):
        yield (data[0][start : start + rows] / np.float32(top)).astype(np.float32), data[1][start : start + rows]


def _mixture_points(settings: MixtureSettings, trial: int, inverted: int) -> list[dict[str, Any]]:
    mixture = Mixture.random(settings.classes, settings.inputs, settings.spread, trial)
    train, test = (_drawn(mixture, settings.samples, 1000 * (trial + 1) + number) for number in (1, 2))
    points = _points(train, test, 1.0, settings.rhos, "auto", trial, inverted, f"mixture trial {trial}")
    whole = mixture_information(mixture, None, settings.samples, trial)
    for point in points:
        found = mixture_information(mixture, point["rho"], settings.samples, trial)
        point["information"], point["information_error"] = found.value, found.error
        point["information_lost"] = whole.value - found.value
    return points


def _drawn(mixture: Mixture, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    x, t = mixture.sample(samples, seed)
    return x.numpy(), t.numpy()


def _series(trials: list[dict[str, Any]], name: str) -> list[list[float]]:
    """Per rho, the values of all trials; empty where it was not measured."""
    return [
        [trial["points"][i][name] for trial in trials if name in trial["points"][i]]
        for i in range(len(trials[0]["points"]))
    ]


def _rows(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for i, point in enumerate(trials[0]["points"]):
        row = {"rho": point["rho"], "n": point["n"]}
        for name in ESTIMATORS:
            row[name.upper()] = spread(_series(trials, name)[i])
        row["trials"] = len(trials)
        row["inversion"] = f"{max(_series(trials, 'inversion')[i]):.1e}"
        recovered, information = _series(trials, "recovered")[i], _series(trials, "information")[i]
        row["ELM recovered"] = f"{statistics.fmean(recovered):.0f}" if recovered else ""
        row["I(y;t) nats"] = f"{statistics.fmean(information):.4f}" if information else ""
        rows.append(row)
    return rows


def _values(name: str, trials: list[dict[str, Any]]) -> dict[str, float]:
    """Numbers that criteria speak of.

    ``error_kept_after_2``: error at the largest rho over error at 2. Were 2 the point of saturation, it would be near
    1.
    """
    rhos = [point["rho"] for point in trials[0]["points"]]
    values: dict[str, float] = {}
    for estimator in ESTIMATORS:
        mean = [statistics.fmean(values) for values in _series(trials, estimator)]
        values |= {f"{name}_{estimator}_rho{rho:g}": accuracy for rho, accuracy in zip(rhos, mean, strict=True)}
        if 2.0 in rhos and rhos[-1] > 2:
            values[f"{name}_{estimator}_error_kept_after_2"] = (100 - mean[-1]) / max(100 - mean[rhos.index(2.0)], 1e-9)
    inversion = [max(errors) for errors in _series(trials, "inversion")]
    values[f"{name}_inversion_from_2"] = max(
        (e for rho, e in zip(rhos, inversion, strict=True) if rho >= 2), default=math.nan
    )
    values[f"{name}_inversion_below_2"] = min(
        (e for rho, e in zip(rhos, inversion, strict=True) if rho < 2), default=math.nan
    )
    if "information" in trials[0]["points"][0]:
        lost = [max(values) for values in _series(trials, "information_lost")]
        values[f"{name}_information_lost_from_2"] = max(e for rho, e in zip(rhos, lost, strict=True) if rho >= 2)
        values |= {f"{name}_information_lost_rho{rho:g}": e for rho, e in zip(rhos, lost, strict=True)}
    return {key: value for key, value in values.items() if value == value}
