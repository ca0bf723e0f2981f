"""A layer or a network that learns by plain gradient descent, watched: what the laws say of each step, and how sparse it gets."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gracile.core.seeding import derive_seed, generator
from gracile.data import Dataset, batches
from gracile.forward_forward.labels import random_wrong
from gracile.forward_forward.laws import hoyer_sparsity
from gracile.forward_forward.network import FFNetwork
from gracile.forward_forward.watching import DECREASE, Seen, dead_units, step_layer, step_network, unit_pairs

log = logging.getLogger("gracile")

# Iterations between lines of the log.
TOLD = 500


@dataclass(frozen=True)
class Shares:
    """Shares in [0, 1] of one kind of samples, one number per iteration; see `watching.Seen`."""

    predicted: list[float] = field(default_factory=list)
    real: list[float] = field(default_factory=list)
    agree: list[float] = field(default_factory=list)

    def add(self, seen: Seen) -> None:
        """One iteration more, to six digits."""
        for key, values in vars(self).items():
            values.append(round(getattr(seen, key), 6))


def correlation(real: np.ndarray, predicted: np.ndarray) -> float:
    """Of real and predicted shares over iterations; where one of them stands still, whether the other is the same."""
    if len(real) < 2 or real.std() == 0 or predicted.std() == 0:
        return float(np.allclose(real, predicted))
    return float(np.corrcoef(real, predicted)[0, 1])


@dataclass(frozen=True)
class LayerSeen:
    """One layer over a training.

    Attributes:
        shares: by ``positive`` and ``negative``; of `DECREASE` the former alone.
        probes: at iterations every so often, the start and the end among them: ``iteration``, mean Hoyer sparsity of the probes with
            their right label (``positive``) and a wrong one (``negative``), and percent of ``dead`` units.
    """

    shares: dict[str, Shares]
    probes: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def watched_descent(
    train: Dataset,
    *,
    loss: str,
    lr: float,
    epochs: int,
    widths: Sequence[int] = (2000,),
    threshold: float = 1.0,
    sharpness: float = 1.0,
    batch_size: int = 128,
    probes: int = 1000,
    probe_steps: int = 100,
    seed: int = 0,
) -> list[LayerSeen]:
    """Train by plain gradient descent on the sum over each batch, and watch what the laws of sparsity foretell.

    Args:
        train: what is learned.
        loss: `watching.DECREASE` (theorem 1: the goodness of right-labelled samples goes down), or a row of `losses.LOSSES`.
        lr: step size.
        epochs: passes over the data.
        widths: of the layers; more than one are trained as a network, each layer on the length-normalised answer of the one below.
        threshold: of the loss.
        sharpness: of the loss.
        batch_size: positive samples per step, and as many negative ones.
        probes: samples on which sparsity and dead units are measured.
        probe_steps: iterations between those measurements.
        seed: of weights, order, negatives and probes.

    Returns:
        What was seen of each layer.
    """
    decrease = loss == DECREASE
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "layers"))
        network = FFNetwork(
            math.prod(train.input_shape), train.num_classes, list(widths), goodness="squared_sum",
            loss="difference" if decrease else loss, label="overlay", normalize="length", bias=False,
            # The threshold of a squared sum counts in widths, and of lengths about 1 the sum is about 1.
            threshold=0.0, sharpness=sharpness,
        )  # fmt: skip
    network.thresholds = [threshold] * len(widths)
    random = generator(seed, "negatives")
    chosen = torch.randperm(len(train), generator=generator(seed, "probes"))[:probes]
    x, right = next(batches(train, probes, order=chosen))
    shown = {"positive": right, "negative": random_wrong(right, train.num_classes, random)}
    found = [
        LayerSeen({kind: Shares() for kind in (["positive"] if decrease else ["positive", "negative"])}) for _ in widths
    ]

    def step(x: Tensor, y: Tensor) -> dict[str, list[Seen]]:
        if len(widths) > 1:
            return step_network(network, x, y, random_wrong(y, train.num_classes, random), lr)
        positive, negative = unit_pairs(x.flatten(1), y, train.num_classes, random)
        weights = network.linear[0].weight.data
        seen = step_layer(
            weights, positive, None if decrease else negative, lr, loss=loss, threshold=threshold, sharpness=sharpness
        )  # fmt: skip
        return {kind: [one] for kind, one in seen.items()}

    iteration = 0
    _probe(network, x, shown, found, iteration)
    for iteration, (images, y) in enumerate(_order(train, batch_size, epochs, seed), 1):
        for kind, layers in step(images, y).items():
            for layer, seen in zip(found, layers, strict=True):
                if kind in layer.shares:
                    layer.shares[kind].add(seen)
        if iteration % probe_steps == 0:
            _probe(network, x, shown, found, iteration)
        if iteration % TOLD == 0:
            recent = found[0].shares["positive"].real[-100:]
            log.info("%s, iteration %d: %.1f %% sparser", loss, iteration, 100 * np.mean(recent))
    if iteration % probe_steps:
        _probe(network, x, shown, found, iteration)
    return found


def _order(train: Dataset, batch_size: int, epochs: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    for epoch in range(epochs):
        order = torch.randperm(len(train), generator=generator(seed, "order", epoch))
        yield from batches(train, batch_size, order=order, drop_last=True)


@torch.no_grad()
def _probe(network: FFNetwork, x: Tensor, shown: dict[str, Tensor], found: list[LayerSeen], iteration: int) -> None:
    active = {kind: network.activations(x, labels) for kind, labels in shown.items()}
    sparsity = {
        kind: [hoyer_sparsity(h, undefined="nan").nanmean().item() for h in layers] for kind, layers in active.items()
    }
    for number, dead in enumerate(dead_units(active["positive"])):
        means = {kind: layers[number] for kind, layers in sparsity.items()}
        found[number].probes.append({"iteration": iteration, **means, "dead": 100 * dead})
