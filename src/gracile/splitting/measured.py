"""Budgets that are measured, not counted: a measure taken of few networks, and its estimate for all others on the way."""

from __future__ import annotations

import bisect
import copy
import logging
import math
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, distributed, nn

from gracile.channels import ChannelGraph
from gracile.channels.liveness import Liveness
from gracile.channels.op import Layer
from gracile.core.errors import InputError
from gracile.core.seeding import generator
from gracile.splitting.rgsm import RGSM

log = logging.getLogger("gracile")
# What the networks measured beforehand have: shares of the groups, or of the parameters where groups lie within layers, since a channel
# then goes only with the last of many.
SHARES = (0.85, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
# Kernels compute widths in vectors of so many.
VECTOR = 8
# Rounds of the fit, and the relative error below which it takes errors for squares.
REWEIGHTED, EXACT = 20, 0.01
# How unevenly layers are thinned in the networks measured: the deviation of the logarithm of the groups' weights.
UNEVEN = 0.5
# Knots of the curve along which it varies over the groups, which are numbered layer by layer.
KNOTS = 8


class Measure(Protocol):
    """What a measured budget is measured by, such as `gracile.deploy.Latency`.

    Attributes:
        budget: the dial's budget that it serves, ``latency`` or ``file_size``.
        unit: of what it returns, for the log.
    """

    budget: str
    unit: str

    def __call__(self, network: nn.Module) -> float:
        """Measure a network, once its channels of zeros are removed; above 0.

        Args:
            network: on the CPU, in evaluation mode, with exact zeros; a copy.
        """
        ...


class Estimate:
    """What a measure would find for any choice of groups, from few networks measured.

    Times and bytes are near sums over layers, so the estimate is a sum of a constant, the multiply-adds, those with widths rounded
    up to vectors, the activations, the parameters and the widths of all layers, with coefficients of at least 0 that leave the
    least sum of relative errors: one network that another program disturbed does not bend it. What the fit leaves is taken out
    where it matters, by `calibrate` at the networks that the dial is about to choose.

    Args:
        measure: called for the dense network and for one of each share of `SHARES`.
        split: whose groups go; not changed.
        graph: of its model.

    Attributes:
        measure: as given.
        dense: what it found of the dense network, in its unit.
        error: median relative error of the estimate over the networks measured beforehand.

    Raises:
        InputError: the measure returns no positive number, or its smallest network has no less of it.
    """

    def __init__(self, measure: Measure, split: RGSM, graph: ChannelGraph) -> None:
        self.measure, self.graph = measure, graph
        none = torch.zeros(split.num_groups, dtype=torch.bool)
        chosen = [none, *_sample(split, graph)]
        rows = np.array([self._features(lives(split, graph, dead)) for dead in chosen])
        found = np.array([self.measured(split, dead) for dead in chosen])
        self.dense, self._unit = float(found[0]), np.maximum(rows[0], 1e-9)
        coefficients = _fitted(rows / self._unit / found[:, None])
        # What is dense keeps all.
        self._coefficients = coefficients / coefficients.sum()
        self.scale = 1.0
        estimated = rows / self._unit @ self._coefficients * self.dense
        self.error = float(np.median(np.abs(estimated / found - 1)[1:]))
        if not found.min() < 0.98 * self.dense:
            raise InputError(
                f"Removing channels changes nothing of the {measure.budget}: {measure} found {self.dense:.4g} {measure.unit} for the "
                f"dense network and {found.min():.4g} for the leanest.",
                "Give a budget of macs or params"
                + (", or measure a larger batch." if measure.budget == "latency" else "."),
            )
        log.info(
            "%s: measured %d networks (%s), the dense one at %.4g %s; the estimate is off by %.1f %% in the median.",
            measure.budget, len(found), measure, self.dense, measure.unit, 100 * self.error,
        )  # fmt: skip

    def share(self, live: Liveness) -> float:
        """The share of the dense network's that a choice keeps.

        Args:
            live: which channels stay.
        """
        return self.scale * float(self._features(live) / self._unit @ self._coefficients)

    def price(self, layer: Layer) -> float:
        """What a layer of the dense network costs, as a share of all; what belongs to no layer is left out."""
        features = np.array([0.0, *_of_layer(layer, self.graph, None)])
        return float(features / self._unit @ self._coefficients)

    def calibrate(self, live: Liveness, share: float) -> None:
        """Let the estimate be this share where these channels stay."""
        self.scale *= share / self.share(live)

    def measured(self, split: RGSM, dead: Tensor) -> float:
        """Measure the network without these groups: one process does, and all know.

        Args:
            split: whose model it is; not changed.
            dead: ``(groups,)`` of bool.
        """
        value = None
        together = distributed.is_available() and distributed.is_initialized()
        if not together or distributed.get_rank() == 0:
            with split.without(dead.to(split.group_sizes().device)):
                network = copy.deepcopy(split.model).cpu().eval()
            value = float(self.measure(network))
        if together:
            held = [value]
            distributed.broadcast_object_list(held)
            value = held[0]
        if value is None or not 0 < value < math.inf:
            raise InputError(f"{self.measure} found {value} {self.measure.unit}.", "Let it return a number above 0.")
        return value

    def _features(self, live: Liveness) -> np.ndarray:
        total = np.zeros(5)
        for layer in self.graph.layers:
            total += _of_layer(layer, self.graph, live)
        return np.array([1.0, *total])

    def state_dict(self) -> dict[str, Any]:
        """What was measured, which another process on another day would measure otherwise."""
        return {
            "coefficients": torch.from_numpy(self._coefficients),
            "dense": self.dense,
            "scale": self.scale,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` saved."""
        self._coefficients = state["coefficients"].cpu().numpy()
        self.dense, self.scale = float(state["dense"]), float(state["scale"])


def _fitted(rows: np.ndarray) -> np.ndarray:
    """Coefficients of at least 0 with which the rows come nearest to 1 in the sum of absolute errors, by reweighted least squares."""
    weights, coefficients = np.ones(len(rows)), np.ones(rows.shape[1])
    for _ in range(REWEIGHTED):
        coefficients, _ = nnls(rows * weights[:, None], weights)
        weights = 1 / np.sqrt(np.maximum(np.abs(rows @ coefficients - 1), EXACT))
    return coefficients


def lives(split: RGSM, graph: ChannelGraph, dead: Tensor) -> Liveness:
    """Which channels stay without these groups.

    Args:
        split: whose groups they are.
        graph: of its model.
        dead: ``(groups,)`` of bool.
    """
    if split.grouping == "coupled":
        return graph.liveness(dead)
    with split.without(dead.to(split.group_sizes().device)):
        return graph.liveness()


def _of_layer(layer: Layer, graph: ChannelGraph, live: Liveness | None) -> np.ndarray:
    """Multiply-adds, those in whole vectors, activations, parameters and widths of a layer, dense or of what stays."""
    shape = list(graph.parameter(layer.weight).shape)
    rounded = list(shape)
    for side in (layer.inputs, layer.outputs):
        if side is not None:
            dim, labels = side
            shape[dim] = len(labels) if live is None else live.count(labels)
            rounded[dim] = math.ceil(shape[dim] / VECTOR) * VECTOR
    made = shape[layer.outputs[0]]
    widths = made + (0 if layer.inputs is None else shape[layer.inputs[0]])
    numbers, vectors = math.prod(shape), math.prod(rounded)
    return np.array([
        numbers * layer.positions, vectors * layer.positions, made * layer.positions, numbers, widths,
    ], dtype=float)  # fmt: skip


def _sample(split: RGSM, graph: ChannelGraph) -> Iterator[Tensor]:
    """Choices of groups such as a dial makes, from many left to few, with layers thinned unevenly: ``(groups,)`` of bool."""

    def left(mu: float) -> float:
        return graph.sizes(lives(split, graph, split.dead_at(mu).cpu())).parameters

    dense = left(0.0)
    before, random = split.state_dict(), generator(0, "measured")
    for share in SHARES:
        knots = torch.randn(1, 1, KNOTS, generator=random, dtype=torch.float64)
        curve = nn.functional.interpolate(knots, size=split.num_groups, mode="linear", align_corners=True).flatten()
        split.reweigh((UNEVEN * curve).exp())
        ordered = split.critical_mus().sort().values
        mu = float(ordered[min(len(ordered) - 1, int((1 - share) * len(ordered)))])
        if split.grouping != "coupled":
            # The first of them at which so little is left, or all that can go.
            place = bisect.bisect_left(
                range(len(ordered)), True, key=lambda one: left(float(ordered[one])) <= share * dense
            )
            mu = float(ordered[min(place, len(ordered) - 1)]) * 1.001
        yield split.dead_at(mu).cpu()
    split.load_state_dict(before)
