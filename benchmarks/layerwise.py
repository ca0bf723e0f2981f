"""Accuracies and timings of the layer-wise learners beside scikit-learn's, timings as ratios within one run.

An ELM with 4710 nodes against RBFSampler(4710) + RidgeClassifier, fit and predict on MNIST, on float32 and on float64 pixels, is a row of
``python -m benchmarks``. Accuracies, by themselves:

    GRACILE_DATA=folder python -m benchmarks.layerwise [best | learners | redense ...]

best      the learner that passes 98.5 % on MNIST's raw pixels in under two minutes on two cores
learners  every learner on MNIST at a size of about a minute
redense   a ReDense layer on a small MLP

Defaults beside scikit-learn's on eight data sets are ``python -m benchmarks.defaults``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline

from benchmarks.protocol import Case, Work
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
    parts = {"best": best, "learners": learners, "redense": redense}
    for chosen in sys.argv[1:] or parts:
        parts[chosen]()
