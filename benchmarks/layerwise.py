"""Timings and accuracies of the layer-wise learners on MNIST, as ratios within one run.

    GRACILE_DATA=folder python benchmarks/layerwise.py [sklearn | best | learners | redense ...]

sklearn   ELM with 4710 nodes against RBFSampler(4710) + RidgeClassifier, fit and predict, on float32 and on float64
pixels best      the learner that passes 98.5 % on raw pixels in under two minutes on two cores
learners  every learner at a size of about a minute
redense   a ReDense layer on a small MLP
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline

from gracile.data import load
from gracile.layerwise import DKNClassifier, ELMClassifier, HNFClassifier, SLFNClassifier, SSFNClassifier
from gracile.layerwise.redense import ReDense


def pixels(dtype: type) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """MNIST in [0, 1]: training inputs and labels, test inputs and labels."""
    splits = load("mnist", validation=0)
    flat = lambda part: (part.inputs[:].flatten(1).numpy() / dtype(255)).astype(dtype)
    return flat(splits.train), splits.train.labels.numpy(), flat(splits.test), splits.test.labels.numpy()


def timed(model: Any, data: tuple[np.ndarray, ...]) -> tuple[float, float, float]:
    """Seconds to fit, seconds to predict, accuracy in percent."""
    x, y, test_x, test_y = data
    began = time.perf_counter()
    model.fit(x, y)
    fitted = time.perf_counter()
    predicted = model.predict(test_x)
    return fitted - began, time.perf_counter() - fitted, 100 * float((predicted == test_y).mean())


def against_sklearn(repeats: int = 1) -> None:
    for dtype in (np.float64, np.float32):
        data = pixels(dtype)
        # gamma near its best on MNIST pixels (0.01 to 0.03), so that the comparison is not won by a bad baseline.
        contenders: dict[str, Callable[[], Any]] = {
            "RBFSampler(4710) + RidgeClassifier": lambda: make_pipeline(
                RBFSampler(gamma=0.02, n_components=4710, random_state=0), RidgeClassifier(alpha=1e-2)
            ),
            "ELM(4710)": lambda: ELMClassifier(n=4710, lam=1.0),
            "ELM(4710), contrast": lambda: ELMClassifier(n=4710, lam=0.01, weights="contrast", image_shape=(28, 28)),
        }
        totals: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(repeats):
            for name, make in contenders.items():
                fit, predict, accuracy = timed(make(), data)
                totals[name].append(fit + predict)
                print(
                    f"{np.dtype(dtype).name} {name:<36} fit {fit:6.1f} s  predict {predict:5.2f} s  {accuracy:.2f} %",
                    flush=True,
                )
        base = statistics.median(totals["RBFSampler(4710) + RidgeClassifier"])
        for name, seconds in totals.items():
            print(f"{np.dtype(dtype).name} {name:<36} {statistics.median(seconds) / base:.2f} of scikit-learn's time")


def best() -> None:
    data = pixels(np.float32)
    for seed in (0, 1, 2):
        model = ELMClassifier(n=6000, lam=0.01, weights="contrast", image_shape=(28, 28), seed=seed)
        fit, predict, accuracy = timed(model, data)
        print(
            f"ELM n = 6000, contrast weights, receptive fields, seed {seed}: {accuracy:.2f} % in {fit + predict:.1f} s",
            flush=True,
        )


def learners() -> None:
    data = pixels(np.float32)
    for model in (
        ELMClassifier(n=2000),
        SLFNClassifier(rho=3),
        SSFNClassifier(),
        SSFNClassifier(alpha=100),
        HNFClassifier(layers=1),
        DKNClassifier(landmarks=2000, layers=2),
    ):
        fit, predict, accuracy = timed(model, data)
        print(f"{model!r}: {accuracy:.2f} % in {fit + predict:.1f} s", flush=True)


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
    parts = {"sklearn": against_sklearn, "best": best, "learners": learners, "redense": redense}
    for chosen in sys.argv[1:] or parts:
        parts[chosen]()
