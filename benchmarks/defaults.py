"""Defaults of the layer-wise learners beside scikit-learn's, as the tables of docs/layerwise.md.

    GRACILE_DATA=folder python -m benchmarks.defaults [--only DATA ...] [--learners NAME ...] [--anew] [--page]

A fit of everybody's defaults on each split of seven data sets and more: accuracy or R2 on test samples, processor time of the fit, Brier
score and log loss of ``predict_proba``. Nothing is chosen here, so the test samples are looked at once. A cell is kept in defaults.json as
soon as it is measured, and stays there; with --anew it is measured again. --page writes the tables from what is kept, and stops.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import datasets
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR
from tabulate import tabulate

from gracile.core.files import write_json, write_text
from gracile.core.provenance import environment
from gracile.data import load
from gracile.layerwise.table import ESTIMATORS

KEPT = Path(__file__).with_name("defaults.json")
PAGE = Path(__file__).parents[1] / "docs" / "layerwise.md"
BEGIN, END = "<!-- defaults: begin, written by python -m benchmarks.defaults -->", "<!-- defaults: end -->"
# Points below the best of scikit-learn's from which a cell stands out.
BEHIND = 1.5

Arrays = tuple[np.ndarray, np.ndarray]
Cells = dict[str, dict[str, dict[str, Any]]]


def letter() -> Arrays:
    """The 16,000 training rows, then the 4000 of the test split."""
    splits = load("letter", validation=0)
    parts = [splits.train, splits.test]
    return (
        np.concatenate([part.inputs[:].flatten(1).numpy() for part in parts]).astype(float),
        np.concatenate([part.labels.numpy() for part in parts]),
    )


def table_of_classes() -> Arrays:
    """100,000 rows of 30 features, 12 of them telling, five classes of three clusters each."""
    return datasets.make_classification(
        100_000, 30, n_informative=12, n_redundant=4, n_classes=5, n_clusters_per_class=3, random_state=3
    )


# Name: the data, the share or number of rows tested on, and how many splits are averaged over: small sets need several.
DATA: dict[str, tuple[Callable[[], Arrays], float | int, int]] = {
    "wine": (lambda: datasets.load_wine(return_X_y=True), 0.25, 10),
    "breast cancer": (lambda: datasets.load_breast_cancer(return_X_y=True), 0.25, 10),
    "diabetes": (lambda: datasets.load_diabetes(return_X_y=True), 0.25, 10),
    "digits": (lambda: datasets.load_digits(return_X_y=True), 0.25, 3),
    "Friedman 1": (lambda: datasets.make_friedman1(4000, noise=1.0, random_state=0), 0.5, 3),
    "Friedman 2": (lambda: datasets.make_friedman2(4000, noise=1.0, random_state=0), 0.5, 3),
    "Letter": (letter, 4000, 1),
    "100,000 rows": (table_of_classes, 20_000, 1),
}
REGRESSION = {"diabetes", "Friedman 1", "Friedman 2"}
PEERS = ("MLP", "SVC", "HistGradientBoosting")


def contenders(classes: bool) -> dict[str, Callable[[], Any]]:
    """Defaults of all; scikit-learn's that need it stand behind a StandardScaler."""
    scaled = lambda model: make_pipeline(StandardScaler(), model)
    ours = {
        name.removesuffix("Classifier").removesuffix("Regressor"): kind
        for name, kind in ESTIMATORS.items()
        if name.endswith("Classifier") == classes
    }
    theirs: tuple[Callable[[], Any], ...] = (
        lambda: scaled(MLPClassifier(random_state=0) if classes else MLPRegressor(random_state=0)),
        lambda: scaled(SVC() if classes else SVR()),
        lambda: (
            HistGradientBoostingClassifier(random_state=0) if classes else HistGradientBoostingRegressor(random_state=0)
        ),
    )
    return {**ours, **dict(zip(PEERS, theirs, strict=True))}


def splits_of(name: str) -> list[tuple[np.ndarray, ...]]:
    """Training inputs and labels, test inputs and labels, of each split."""
    make, share, number = DATA[name]
    x, y = make()
    if name == "Letter":
        return [(x[:-4000], y[:-4000], x[-4000:], y[-4000:])]
    found = []
    for seed in range(number):
        a, b, c, d = train_test_split(x, y, test_size=share, random_state=seed)
        found.append((a, c, b, d))
    return found


def cell(make: Callable[[], Any], splits: Sequence[tuple[np.ndarray, ...]]) -> dict[str, Any]:
    """Means over splits: ``score`` in percent, ``seconds`` of a fit, and ``brier`` and ``log_loss`` where there are probabilities."""
    scores, seconds, calibration = [], [], []
    for x, y, test_x, test_y in splits:
        began = time.process_time()
        model = make().fit(x, y)
        seconds.append(time.process_time() - began)
        scores.append(100 * model.score(test_x, test_y))
        if hasattr(model, "predict_proba"):
            p = model.predict_proba(test_x)
            truth = np.eye(p.shape[1])[np.searchsorted(np.unique(y), test_y)]
            calibration.append((np.square(p - truth).sum(1).mean(), log_loss(test_y, p)))
    found = {"score": float(np.mean(scores)), "seconds": float(np.mean(seconds)), "splits": len(splits)}
    if calibration:
        found |= dict(zip(("brier", "log_loss"), map(float, np.mean(calibration, 0)), strict=True))
    return found


def tables(kept: Cells) -> str:
    """Both tables as Markdown; a cell more than `BEHIND` points below the best of scikit-learn's is bold."""
    names = list(contenders(True))
    accuracy, calibration = [], []
    for data in DATA:
        cells = kept.get(data, {})
        best = max((cells[peer]["score"] for peer in PEERS if peer in cells), default=-np.inf)
        row = {"": f"{data}, R2" if data in REGRESSION else data}
        for name in names:
            if name not in cells:
                row[name] = "not run"
                continue
            score, seconds = cells[name]["score"], cells[name]["seconds"]
            behind = name not in PEERS and score < best - BEHIND
            row[name] = (f"**{score:.1f}**" if behind else f"{score:.1f}") + f", {seconds:.2g} s"
        accuracy.append(row)
        if data not in REGRESSION:
            shown = {
                name: f"{found['brier']:.3f}, {found['log_loss']:.3f}" if "brier" in found else ""
                for name in names
                if name != "SVC"  # It has no probabilities by default.
                for found in [cells.get(name, {})]
            }
            calibration.append({"": data, **shown})
    return (
        f"{BEGIN}\n{tabulate(accuracy, headers='keys', tablefmt='github')}\n\nBrier score and log loss, where lower is better:\n\n"
        f"{tabulate(calibration, headers='keys', tablefmt='github')}\n{END}"
    )


def with_tables(page: str, kept: Cells) -> str:
    """The page with the tables between their marks."""
    before, rest = page.split(BEGIN)
    return before + tables(kept) + rest.split(END)[1]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.defaults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=DATA, default=list(DATA), metavar="DATA")
    names = list(contenders(True))
    parser.add_argument("--learners", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--anew", action="store_true", help="measure what is kept again")
    parser.add_argument("--page", action="store_true", help="write the tables from what is kept, and stop")
    args = parser.parse_args()
    kept: Cells = json.loads(KEPT.read_text("utf-8")) if KEPT.exists() else {}
    # Of MLPClassifier, about its own default number of epochs.
    warnings.simplefilter("ignore", ConvergenceWarning)
    for data in [] if args.page else args.only:
        splits, cells = splits_of(data), kept.setdefault(data, {})
        for name, make in contenders(data not in REGRESSION).items():
            if name not in args.learners or (name in cells and not args.anew):
                continue
            place = environment()
            cells[name] = cell(make, splits) | {"commit": place["commit"], "processor": place["processor"]}
            print(f"{data:<14} {name:<22} {json.dumps(cells[name])}", flush=True)
            write_json(KEPT, kept)
    write_text(PAGE, with_tables(PAGE.read_text("utf-8"), kept))
    return 0


if __name__ == "__main__":
    sys.exit(main())
