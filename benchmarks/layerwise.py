"""Timings and accuracies of the layer-wise learners on MNIST, as ratios within one run.

    GRACILE_DATA=folder python benchmarks/layerwise.py [sklearn | best | learners | redense ...]

sklearn   ELM with 4710 nodes against RBFSampler(4710) + RidgeClassifier, fit and predict, on float32 and on float64
pixels best      the learner that passes 98.5 % on raw pixels in under two minutes on two cores
learners  every learner at a size of about a minute
redense   a ReDense layer on a small MLP
"""

from __future__ import annotations

import math
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
    """Seconds on the clock and seconds of all cores to fit and predict, accuracy in percent."""
    x, y, test_x, test_y = data
    # Seconds of the cores hardly change when others use the machine; seconds on the clock do.
    clock, cores = time.perf_counter(), time.process_time()
    predicted = model.fit(x, y).predict(test_x)
    clock, cores = time.perf_counter() - clock, time.process_time() - cores
    return clock, cores, 100 * float((predicted == test_y).mean())


def against_sklearn() -> None:
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
        base = (math.nan, math.nan)
        for name, make in contenders.items():
            clock, cores, accuracy = timed(make(), data)
            base = (clock, cores) if name.startswith("RBF") else base
            print(
                f"{np.dtype(dtype).name} {name:<36} {clock:6.1f} s, {cores:6.1f} s of cores, "
                f"{clock / base[0]:.2f} and {cores / base[1]:.2f} of scikit-learn's, {accuracy:.2f} %",
                flush=True,
            )


def best() -> None:
    data = pixels(np.float32)
    for seed in (0, 1, 2):
        model = ELMClassifier(n=6000, lam=0.01, weights="contrast", image_shape=(28, 28), seed=seed)
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
        SSFNClassifier(alpha=100),
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
    parts = {"sklearn": against_sklearn, "best": best, "learners": learners, "redense": redense}
    for chosen in sys.argv[1:] or parts:
        parts[chosen]()
