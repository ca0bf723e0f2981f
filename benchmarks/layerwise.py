"""Accuracies and timings of the layer-wise learners beside scikit-learn's, timings as ratios within one run.

An ELM with 4710 nodes against RBFSampler(4710) + RidgeClassifier, fit and predict on MNIST, on float32 and on float64 pixels, is a row of
``python -m benchmarks``. Accuracies, by themselves:

    GRACILE_DATA=folder python -m benchmarks.layerwise [defaults | calibration | best | ...][:DATA,...[:LEARNER,...]]

defaults     every learner's defaults beside MLPClassifier, SVC and HistGradientBoosting's: the table of docs/layerwise.md
calibration  Brier score and log loss of predict_proba beside theirs
best         the learner that passes 98.5 % on MNIST's raw pixels in under two minutes on two cores
learners     every learner on MNIST at a size of about a minute
redense      a ReDense layer on a small MLP
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from sklearn import datasets
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR
from tabulate import tabulate

from benchmarks.protocol import Case, Work
from gracile.data import load
from gracile.layerwise import DKNClassifier, ELMClassifier, HNFClassifier, SLFNClassifier, SSFNClassifier
from gracile.layerwise.redense import ReDense
from gracile.layerwise.table import ESTIMATORS

Arrays = tuple[np.ndarray, np.ndarray]


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
    "digits": (lambda: datasets.load_digits(return_X_y=True), 0.25, 3),
    "breast cancer": (lambda: datasets.load_breast_cancer(return_X_y=True), 0.25, 10),
    "wine": (lambda: datasets.load_wine(return_X_y=True), 0.25, 10),
    "diabetes": (lambda: datasets.load_diabetes(return_X_y=True), 0.25, 10),
    "Friedman 1": (lambda: datasets.make_friedman1(4000, noise=1.0, random_state=0), 0.5, 3),
    "Friedman 2": (lambda: datasets.make_friedman2(4000, noise=1.0, random_state=0), 0.5, 3),
    "Letter": (letter, 4000, 1),
    "100000 rows": (table_of_classes, 20_000, 1),
}
# SVC's time grows with the square of the rows and more.
SLOW = {("100000 rows", "SVC")}


def contenders(classes: bool) -> dict[str, Callable[[], Any]]:
    """Defaults of all; scikit-learn's that need it stand behind a StandardScaler."""
    scaled = lambda model: make_pipeline(StandardScaler(), model)
    ours = {
        name.removesuffix("Classifier").removesuffix("Regressor"): kind
        for name, kind in ESTIMATORS.items()
        if name.endswith("Classifier") == classes
    }
    theirs: dict[str, Callable[[], Any]] = {
        "MLP": lambda: scaled(MLPClassifier(random_state=0) if classes else MLPRegressor(random_state=0)),
        "SVC": lambda: scaled(SVC() if classes else SVR()),
        "HistGradientBoosting": lambda: (
            HistGradientBoostingClassifier(random_state=0) if classes else HistGradientBoostingRegressor(random_state=0)
        ),
    }
    return {**ours, **theirs}


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


def defaults(names: str = "") -> None:
    """A line for each fit as it is done, and the table of docs/layerwise.md at the end.

    Args:
        names: of data and, behind a colon, of learners, such as ``Letter,wine:ELM,MLP``; all by default.
    """
    found: dict[str, dict[str, str]] = {}
    names, _, only = names.partition(":")
    for name in names.split(",") if names else DATA:
        parts = splits_of(name)
        classes = parts[0][1].dtype.kind in "iu"
        cells = found.setdefault(name if classes else f"{name}, R2", {})
        for label, make in contenders(classes).items():
            if (name, label) in SLOW or (only and label not in only.split(",")):
                cells[label] = "not run"
                continue
            scores, seconds = [], 0.0
            for x, y, test_x, test_y in parts:
                began = time.process_time()
                model = make().fit(x, y)
                seconds += (time.process_time() - began) / len(parts)
                scores.append(100 * model.score(test_x, test_y))
            cells[label] = f"{np.mean(scores):.1f}, {seconds:.2g} s"
            print(
                f"{name:<14} {label:<22} {np.mean(scores):6.2f} {'%' if classes else '% R2'}  {seconds:7.2f} s",
                flush=True,
            )
    print(tabulate([{"": name, **cells} for name, cells in found.items()], headers="keys", tablefmt="github"))


def calibration(names: str = "wine,breast cancer,digits,Letter") -> None:
    """Brier score and log loss of `predict_proba` on test samples of three splits, as the table of docs/layerwise.md.

    Args:
        names: of data and, behind a colon, of learners, as for `defaults`.
    """
    found = []
    names, _, only = names.partition(":")
    for name in names.split(","):
        parts = splits_of(name)[:3]
        row = {"": name}
        for label, make in contenders(True).items():
            if label == "SVC" or (only and label not in only.split(",")):
                continue  # SVC's probabilities are not a default.
            both = []
            for x, y, test_x, test_y in parts:
                p = make().fit(x, y).predict_proba(test_x)
                brier = np.square(p - np.eye(p.shape[1])[np.unique(y, return_inverse=True)[0].searchsorted(test_y)])
                both.append((brier.sum(1).mean(), log_loss(test_y, p)))
            brier, loss = np.mean(both, 0)
            row[label] = f"{brier:.3f}, {loss:.3f}"
            print(f"{name:<14} {label:<22} Brier {brier:.4f}, log loss {loss:.4f}", flush=True)
        found.append(row)
    print(tabulate(found, headers="keys", tablefmt="github"))


def pixels(dtype: type) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """MNIST in [0, 1]: training inputs and labels, test inputs and labels."""
    splits = load("mnist", validation=0)
    flat = lambda part: (part.inputs[:].flatten(1).numpy() / dtype(255)).astype(dtype)
    return flat(splits.train), splits.train.labels.numpy(), flat(splits.test), splits.test.labels.numpy()


def timed(model: Any, data: tuple[np.ndarray, ...]) -> tuple[float, float, float]:
    """Seconds on the clock and seconds of all cores to fit and predict, accuracy in percent."""
    x, y, test_x, test_y = data
    # Seconds of the cores hardly change when others use the machine; seconds on the clock do.
    clock, cores = time.perf_counter(), time.process_time()
    predicted = model.fit(x, y).predict(test_x)
    clock, cores = time.perf_counter() - clock, time.process_time() - cores
    return clock, cores, 100 * float((predicted == test_y).mean())


def cases(small: bool) -> Iterator[Case]:
    for dtype in (np.float64, np.float32):
        x, y, test_x, _ = pixels(dtype)
        n = 4710
        if small:
            x, y, test_x, n = x[:300], y[:300], test_x[:100], 50
        # gamma near its best on MNIST pixels (0.01 to 0.03), so that the comparison is not won by a bad baseline.
        contenders: dict[str, Callable[[], Any]] = {
            "scikit-learn": lambda n=n: make_pipeline(
                RBFSampler(gamma=0.02, n_components=n, random_state=0), RidgeClassifier(alpha=1e-2)
            ),
            "ELM": lambda n=n: ELMClassifier(n=n, lam=1.0, scale=None, dtype="float32"),
            "ELM, contrast, a third of the nodes": lambda n=n: ELMClassifier(
                n=n // 3, lam=0.01, weights="contrast", image_shape=(28, 28), scale=None
            ),
        }
        calls = {
            name: lambda make=make, x=x, y=y, z=test_x: make().fit(x, y).predict(z) for name, make in contenders.items()
        }
        # Features of all samples, half of a product for the Gram matrix, and its Cholesky factor, in float64 at half the speed.
        least = 2.0 * (len(x) + len(test_x)) * x.shape[1] * n + len(x) * n**2 + 2 * n**3 / 3
        for clock in ("wall", "cores"):
            yield Case(
                f"MNIST, {np.dtype(dtype).name}, {n} nodes, fit and predict", "scikit-learn", calls, goals={"ELM": 0.5},
                floors={"ELM": Work(flops=least)}, clock=clock, rounds=2,
            )  # fmt: skip


def best() -> None:
    data = pixels(np.float32)
    for seed in (0, 1, 2):
        model = ELMClassifier(n=6000, lam=0.01, weights="contrast", image_shape=(28, 28), scale=None, seed=seed)
        clock, cores, accuracy = timed(model, data)
        print(
            f"ELM n = 6000, contrast weights, receptive fields, seed {seed}: {accuracy:.2f} % "
            f"in {clock:.1f} s ({cores:.1f} s of cores)",
            flush=True,
        )


def learners() -> None:
    data = pixels(np.float32)
    for model in (
        ELMClassifier(n=2000),
        SLFNClassifier(rho=3),
        SSFNClassifier(),
        HNFClassifier(layers=1),
        DKNClassifier(landmarks=2000, layers=2),
    ):
        clock, cores, accuracy = timed(model, data)
        print(f"{model!r}: {accuracy:.2f} % in {clock:.1f} s ({cores:.1f} s of cores)", flush=True)


def redense() -> None:
    x, y, test_x, test_y = map(torch.from_numpy, pixels(np.float32))
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(784, 500), torch.nn.ReLU(), torch.nn.Linear(500, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for _ in range(3):
        for rows in torch.randperm(len(x)).split(100):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
    accuracy = lambda model: 100 * float((model(test_x).argmax(1) == test_y).double().mean())
    began = time.perf_counter()
    wider = ReDense(network)
    wider.fit((x, y), epochs=300)
    print(
        f"ReDense, 300 epochs: {accuracy(network):.2f} -> {accuracy(wider):.2f} % "
        f"in {time.perf_counter() - began:.1f} s"
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore", ConvergenceWarning)  # MLPClassifier's, of its own default number of epochs.
    parts = {
        "defaults": defaults, "calibration": calibration, "best": best,
        "learners": learners, "redense": redense,
    }  # fmt: skip
    for chosen in sys.argv[1:] or parts:
        part, _, which = chosen.partition(":")
        parts[part](*[which] if which else [])
