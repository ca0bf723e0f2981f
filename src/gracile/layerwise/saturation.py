"""Accuracy of layers of random weights against their width, and whether their input could be found again from their answer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from gracile.core.collapse import collapse_of
from gracile.layerwise.elm import ELMClassifier
from gracile.layerwise.information import Mixture, elm_inversion_error, mixture_information, slfn_inversion_error
from gracile.layerwise.slfn import SLFNClassifier

log = logging.getLogger("gracile")

Samples = tuple[np.ndarray, np.ndarray]
# Beyond so many inputs the pseudo-inverse of every sample's own active rows is too slow; below this error one is recovered.
INVERTIBLE, RECOVERED = 800, 1e-6


def rho_sweep(
    train: Samples,
    test: Samples,
    rhos: Sequence[float],
    *,
    lam: float | str = "auto",
    top: float = 1.0,
    inverted: int = 20,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """ELM and SLFN, trained on the same samples with growing layers, at rho = nodes / inputs.

    Args:
        train: features (samples, P) and labels.
        test: the same, held out.
        rhos: nodes per input, of which each layer takes the nearest even number, 2 at least.
        lam: ridge strength, or "auto" (leave-one-out).
        top: divides all features, such as 255 for bytes; it is done in pieces, so that large data are not copied.
        inverted: test samples whose inversion is checked.
        seed: of the weights.

    Returns:
        Per rho its ``rho`` and ``n`` nodes, test accuracies ``elm`` and ``slfn`` in percent, ``elm_collapsed`` and ``slfn_collapsed``:
        how either has failed as a whole (`gracile.core.collapse.collapse`), ``inversion``: the largest |x - k(y)| / |x| of the SLFN,
        and ``recovered``: percent of inputs that the ELM's layer lets recover to 1e-6, of at most 800 features.
    """
    x, inputs = torch.from_numpy(test[0][:inverted]) / top, train[0].shape[1]
    points = []
    for rho in rhos:
        n = 2 * max(1, round(rho * inputs / 2))
        common = {"lam": lam, "scale": None, "dtype": "float32", "seed": seed}
        learners = {"elm": ELMClassifier(n=n, **common), "slfn": SLFNClassifier(rho=n / inputs, **common)}
        point: dict[str, Any] = {"rho": rho, "n": n}
        for name, learner in learners.items():
            # The learner sees the features divided by `top` piece by piece: scaling the ridge's inputs is scaling the first weights.
            learner.fit_stream(lambda: _pieces(train, top), classes=np.unique(train[1]))
            known = np.isin(test[1], learner.classes_)
            pieces = _pieces((test[0][known], test[1][known]), top)
            answers = np.concatenate([learner.predict(a) for a, _ in pieces])
            point[name] = 100 * int((answers == test[1][known]).sum()) / len(test[1])
            # Numbered by the classes that were learned, whatever these are called.
            places = (torch.from_numpy(np.searchsorted(learner.classes_, one)) for one in (test[1][known], answers))
            point[f"{name}_collapsed"] = collapse_of(*places)
        point["inversion"] = float(slfn_inversion_error(x, n / inputs, seed).max())
        if inputs <= INVERTIBLE:
            point["recovered"] = 100 * float((elm_inversion_error(x, n / inputs, seed) < RECOVERED).double().mean())
        points.append(point)
        log.info("rho %g: ELM %.2f, SLFN %.2f", rho, point["elm"], point["slfn"])
    return points


def mixture_sweep(
    mixture: Mixture, rhos: Sequence[float], *, samples: int = 20000, inverted: int = 20, seed: int = 0
) -> list[dict[str, Any]]:
    """`rho_sweep` on samples of a mixture of Gaussians, and what each layer keeps of the information on the class, in nats.

    Args:
        mixture: where samples come from.
        rhos: nodes per input.
        samples: of the Monte Carlo; as many train, and as many test, the learners.
        inverted: as for `rho_sweep`.
        seed: of everything.

    Returns:
        The points, with ``information``, I(y; t), its standard error ``information_error``, and ``information_lost`` of I(x; t).
    """
    drawn = (mixture.sample(samples, 1000 * (seed + 1) + number) for number in (1, 2))
    train, test = ((x.numpy(), t.numpy()) for x, t in drawn)
    points = rho_sweep(train, test, rhos, inverted=inverted, seed=seed)
    whole = mixture_information(mixture, None, samples, seed)
    for point in points:
        found = mixture_information(mixture, point["rho"], samples, seed)
        point["information"], point["information_error"] = found.value, found.error
        point["information_lost"] = whole.value - found.value
    return points


def _pieces(data: Samples, top: float, rows: int = 4096) -> Iterator[Samples]:
    for start in range(0, len(data[0]), rows):
        yield (data[0][start : start + rows] / np.float32(top)).astype(np.float32), data[1][start : start + rows]
