"""Budgets: what a choice of weights or groups leaves of each, and what groups cost of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gracile.channels import ChannelGraph, trace
from gracile.channels.liveness import Liveness
from gracile.channels.op import Layer
from gracile.core.errors import InputError
from gracile.core.shards import check_whole, full
from gracile.core.summary import zeros
from gracile.splitting.measured import Estimate, Measure, lives
from gracile.splitting.rgsm import RGSM
from gracile.splitting.rvsm import RVSM

# A run ends between a budget and this share of it below.
LANDING = 0.01
# Budgets that are measured, not counted.
MEASURED = ("latency", "file_size")


class Budgets:
    """The budgets of a dial.

    Args:
        split: an RVSM or RGSM; the network is traced where something physical is counted.
        given: by name, the share in (0, 1) that stays at most; of ``sparsity``, that of exact zeros, at least.
        measure: what measures those of `MEASURED`; one, or one for each.
        example: one input batch.
        by_cost: weigh groups by what they cost.

    Attributes:
        kept: by name, the share that stays at most; of ``sparsity`` too.
        graph: of the traced network; None where nothing physical is counted.
        estimates: by name, of those that are measured.
        costs: of each budget, and of all together, what groups cost, ``(groups,)`` each; empty where groups are not weighed so.

    Raises:
        InputError: none is given, one is out of range or of the network's reach, nothing measures it, or the splitting cannot serve it.
    """

    def __init__(
        self,
        split: RVSM | RGSM,
        given: Mapping[str, float],
        measure: Measure | Sequence[Measure],
        example: Tensor | None,
        by_cost: bool,
    ) -> None:
        for budget, value in given.items():
            if not 0 < value < 1:
                raise InputError(
                    f"The budget {budget}={value} is not between 0 and 1.", "It is a share of the dense network."
                )
        self.split = split
        self.kept = {budget: 1 - value if budget == "sparsity" else value for budget, value in given.items()}
        self.graph: ChannelGraph | None = None
        self.estimates: dict[str, Estimate] = {}
        self.costs: list[Tensor] = []
        self._sizes: Tensor | None = None
        self.parameters = sum(parameter.numel() for parameter in split.model.parameters())
        split.critical_mus()  # refuses where lam steers nothing
        physical = [name for name in self.kept if name != "sparsity"]
        if physical and not isinstance(split, RGSM):
            raise InputError(
                f"Zeroing single weights removes no {physical[0]}: dense kernels compute with zeros.",
                "Use RGSM, or give a budget of sparsity.",
            )
        measures = _measures(measure, given)
        if isinstance(split, RGSM):
            self._sizes = split.group_sizes()
            if physical:
                self._trace(split, physical, example, measures)
            if split.grouping == "coupled" or not physical:
                self.costs = self._weighings(split, measures, by_cost=by_cost or not physical)
        self._check_reach()

    def _trace(
        self, split: RGSM, physical: Sequence[str], example: Tensor | None, measures: Mapping[str, Measure]
    ) -> None:
        if example is None:
            raise InputError(
                f"A budget of {physical[0]} counts what can be removed, for which the network is traced.",
                "Pass example=one input batch.",
            )
        if measures and split.penalty.entrywise:
            raise InputError(
                f"A budget of {next(iter(measures))} is measured of choices of whole groups, and this penalty zeroes entries inside "
                "groups that stay as well.",
                "Take penalty='group_l0', or budgets of macs, params and sparsity.",
            )
        check_whole(split.model)
        self.graph = trace(split.model, example)
        dense = self.graph.dense()
        self._dense = {"macs": dense.macs, "params": dense.parameters}
        self.estimates = {name: Estimate(one, split, self.graph) for name, one in measures.items()}

    def _weighings(self, split: RGSM, measures: Mapping[str, Measure], *, by_cost: bool) -> list[Tensor]:
        """Ways to weigh the groups, of which the best serves."""
        if not by_cost:
            return [torch.ones(split.num_groups, dtype=torch.float64)]
        found = []
        for name in self.kept:
            if name == "sparsity":
                assert self._sizes is not None
                own = self._sizes.cpu().double()
            else:
                assert self.graph is not None
                own = _costs(self.graph, self.estimates[name].price if name in measures else _price(self.graph, name))
            found.append(own / own.mean())
        return [*found, torch.stack(found).sum(0)] if len(found) > 1 else found

    def _check_reach(self) -> None:
        least = self.left_at(math.inf)
        for budget, kept in self.kept.items():
            if least[budget] > kept:
                value, reach = (1 - kept, 1 - least[budget]) if budget == "sparsity" else (kept, least[budget])
                remedy = "split more layers"
                if isinstance(self.split, RVSM):
                    why = "with every split weight zero"
                elif budget != "sparsity" and least[budget] == 1:
                    raise InputError(
                        f"The budget {budget}={value:g} is out of reach: no group of this splitting takes any {budget} with it.",
                        "Split other layers, or give a budget of sparsity.",
                    )
                elif self.split.keep_last:
                    why = "with one group left of each layer"
                    if self._left_without_last()[budget] <= kept:
                        remedy = "pass keep_last=False"
                else:
                    why = "with every group zero"
                raise InputError(
                    f"The budget {budget}={value:g} is out of reach: {why} it comes to {reach:.3g}.",
                    f"Choose a milder budget, or {remedy}.",
                )

    def _left_without_last(self) -> dict[str, float]:
        """The share that each budget keeps if layers may lose all their groups."""
        assert isinstance(self.split, RGSM)
        self.split.keep_last = False
        left = self.left_at(math.inf)
        self.split.keep_last = True
        return left

    def by_entries(self) -> bool:
        """Whether zeros come entry by entry, also inside groups that stay."""
        entrywise = isinstance(self.split, RGSM) and bool(self.split.penalty.entrywise)
        return isinstance(self.split, RVSM) or (entrywise and "sparsity" in self.kept)

    def left_at(self, mu: float) -> dict[str, float]:
        """The share that each budget keeps if lam / beta is mu."""
        if isinstance(self.split, RVSM):
            return {"sparsity": 1 - self.split.zeros_at(mu) / self.parameters}
        return self.left(self.split.dead_at(mu), mu)

    def left(self, dead: Tensor, mu: float = 0.0) -> dict[str, float]:
        """The share that each budget keeps if these groups go.

        Args:
            dead: ``(groups,)`` of bool.
            mu: where a penalty zeroes entries inside groups that stay, lam / beta.
        """
        assert isinstance(self.split, RGSM)
        left: dict[str, float] = {}
        if self.split.penalty.entrywise:
            # Entries alone can empty filters and whole channels, so that the weights themselves are looked at.
            with self.split.sparse_at(mu), self.split.without(dead):
                if self.graph is not None:
                    left = self._physical(self.graph, self.graph.liveness())
                zero = sum(zeros(full(weight.tensor.detach())) for weight in self.split.weights)
            left["sparsity"] = 1 - zero / self.parameters
            return {budget: left[budget] for budget in self.kept}
        if self.graph is not None:
            left = self._physical(self.graph, lives(self.split, self.graph, dead))
        if "sparsity" in self.kept:
            assert self._sizes is not None
            left["sparsity"] = 1 - float(self._sizes[dead].sum()) / self.parameters
        return {budget: left[budget] for budget in self.kept}

    def _physical(self, graph: ChannelGraph, live: Liveness) -> dict[str, float]:
        """The share that physical budgets keep of what stays."""
        counts = graph.sizes(live)
        left = {"macs": counts.macs / self._dense["macs"], "params": counts.parameters / self._dense["params"]}
        return left | {budget: estimate.share(live) for budget, estimate in self.estimates.items()}

    def told(self, left: Mapping[str, float]) -> dict[str, float]:
        """Shares as they were asked for: of ``sparsity``, that of zeros."""
        return {budget: 1 - share if budget == "sparsity" else share for budget, share in left.items()}


def within(left: Mapping[str, float], plan: Mapping[str, float]) -> bool:
    """Whether no budget is exceeded; shares are quotients of counts, so that rounding alone makes no difference."""
    return all(left[budget] <= share + 1e-12 for budget, share in plan.items())


def nearest_use(left: Mapping[str, float], plan: Mapping[str, float]) -> float:
    """How much of the tightest budget is used, at most 1 where all are kept."""
    return max(left[budget] / share for budget, share in plan.items())


def landed(left: Mapping[str, float], plan: Mapping[str, float]) -> bool:
    """Whether no budget is exceeded, and the tightest is used up to `LANDING`."""
    return within(left, plan) and nearest_use(left, plan) >= 1 - LANDING


def _measures(measure: Measure | Sequence[Measure], given: Mapping[str, float]) -> dict[str, Measure]:
    """What measures each of the budgets that need it."""
    every = list(measure) if isinstance(measure, Sequence) else [measure]
    measures = {one.budget: one for one in every}
    asked = [budget for budget in MEASURED if budget in given]
    for budget in asked:
        if budget not in measures:
            raise InputError(
                f"A budget of {budget} is measured, and nothing to measure it with is given.",
                f"Pass measure=gracile.deploy.{'Latency' if budget == 'latency' else 'FileSize'}(example).",
            )
    for budget in measures:
        if budget not in asked:
            raise InputError(
                f"measure= measures {budget}, for which there is no budget.", f"Give {budget}= too, or leave it out."
            )
    return {budget: measures[budget] for budget in asked}


def _price(graph: ChannelGraph, budget: str) -> Callable[[Layer], float]:
    """What a layer of the dense network costs, in multiply-adds or parameters."""
    return lambda layer: graph.parameter(layer.weight).numel() * (layer.positions if budget == "macs" else 1)


def _costs(graph: ChannelGraph, price: Callable[[Layer], float]) -> Tensor:
    """What each group costs in the dense network, ``(groups,)``: its slices and its filters, by what their layers cost."""
    costs = np.zeros(graph.num_groups)
    for layer in graph.layers:
        for side in (layer.inputs, layer.outputs):
            if side is not None:
                groups = graph.groups_of(side[1])
                np.add.at(costs, groups[groups >= 0], price(layer) / len(groups))
    return torch.from_numpy(costs)
