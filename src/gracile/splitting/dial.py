"""A dial instead of a guess: name the budget, and the coefficient is steered to it during the one training run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gracile.channels import ChannelGraph, trace
from gracile.core.errors import InputError
from gracile.core.summary import Summary
from gracile.splitting.rgsm import RGSM
from gracile.splitting.rvsm import RVSM

Budget = Literal["macs", "params", "sparsity"]
# How often the coefficient is set anew while the budget shrinks: a hundred times follows the cubic to a percent.
SETTINGS_PER_RUN = 100


class Dial:
    """Steers a splitting's lam so that the run ends at a budget.

    At any moment the weights' sizes tell exactly which lam would zero which of them, so no search over runs is needed:
    the dial asks for the share that the budget's schedule names at this step, a cubic from everything to the target over
    the first part of the run (Zhu and Gupta 2017, eq. 1), sets lam to it, and goes on setting it, because weights move.
    Groups are weighed by what they cost of the budget and by what their layer has left (`RGSM.reweigh`).

    In the last part of the run the choice is final: what is zero in u is zero in w too, lam is 0, and the rest goes on
    training without it. A tight budget needs that: until then w keeps a part of the dead groups, of the size of their
    gradient over beta, and the sparse network would have to do without what the dense one still leans on.

    Take beta near 0.1 with group lasso. Steered far, it pulls the groups that stay with a force of up to beta times their
    size, and a network without batch-norm fades away under beta = 1.

    Args:
        split: an RVSM or RGSM, not yet attached; its own lam is not looked at.
        steps: optimiser steps of the whole run.
        macs, params: share in (0, 1) of multiply-adds or parameters that stay after physical removal. They need an
            RGSM and an example.
        sparsity: share in (0, 1) of exact zeros over all parameters.
        example: one input batch, to trace the network with.
        by_cost: weigh groups by what they cost of the budget. A budget of multiply-adds then takes first of the early layers,
            whose channels are few and dear; without it layers lose nearly alike.
        begin: share in [0, 1) of the run, at its start, that trains densely: until then sizes tell little of what a group is
            worth.
        ramp: share in (0, 1] of the run, after that, during which the budget shrinks.
        settle: share in [0, 1) of the run, at its end, during which the choice is final; 0 for plain splitting to the end.

    Raises:
        InputError: not exactly one budget, one out of range, a budget of multiply-adds for single weights, or one
            the network cannot reach.
    """

    def __init__(
        self,
        split: RVSM | RGSM,
        *,
        steps: int,
        macs: float | None = None,
        params: float | None = None,
        sparsity: float | None = None,
        example: Tensor | None = None,
        by_cost: bool = True,
        begin: float = 0.0,
        ramp: float = 0.5,
        settle: float = 0.5,
    ) -> None:
        given = {
            key: value
            for key, value in (("macs", macs), ("params", params), ("sparsity", sparsity))
            if value is not None
        }
        if len(given) != 1:
            raise InputError(f"A dial takes one budget, and {len(given)} are given.", "Give macs, params or sparsity.")
        budget, value = next(iter(given.items()))
        if not 0 < value < 1:
            raise InputError(
                f"The budget {budget}={value} is not between 0 and 1.", "It is a share of the dense network."
            )
        if not (0 <= begin < 1 and 0 < ramp <= 1 and 0 <= settle < 1 and begin + ramp + settle <= 1 + 1e-9):
            raise InputError(
                f"begin={begin}, ramp={ramp} and settle={settle} do not fit into the run.",
                "They are shares of it and sum to 1 at most.",
            )
        if steps < 1:
            raise InputError(f"steps={steps} must be at least 1.", "Give the number of optimiser steps of the run.")
        self.split, self.steps, self.begin, self.ramp = split, steps, begin, ramp
        self.by_cost = by_cost
        self.final = steps if settle == 0 else max(1, math.ceil((1 - settle) * steps))
        self._kept: list[Tensor] | None = None
        self._costs: Tensor | None = None
        self.budget: Budget = budget  # pyright: ignore[reportAttributeAccessIssue] - one of the three keys above
        # Inside, everything is a share that is kept.
        self.kept = 1 - value if budget == "sparsity" else value
        self.step = 0
        self._measure = self._measuring(example)
        self._handles: list[RemovableHandle] = []
        least = self._measure(math.inf)
        if least > self.kept:
            name = f"{budget}={value:g}"
            reach = 1 - least if budget == "sparsity" else least
            raise InputError(
                f"The budget {name} is out of reach: with one group left a layer it comes to {reach:.3g}.",
                "Choose a milder budget, or pass keep_last=False.",
            )
        self.split.lam, self.split.steered_to = 0.0, f"{budget}={value:g}"

    def _measuring(self, example: Tensor | None) -> Callable[[float], float]:
        """The kept share as a function of mu; falls as mu rises."""
        split = self.split
        if isinstance(split, RVSM):
            if self.budget != "sparsity":
                raise InputError(
                    f"Zeroing single weights removes no {self.budget}: dense kernels compute with zeros.",
                    "Use RGSM, or give a budget of sparsity.",
                )
            split.critical_mus()  # refuses where lam steers nothing
            return lambda mu: 1 - split.zeros_at(mu) / split.summary().parameters
        if self.budget == "sparsity":
            sizes = split.group_sizes()
            self._costs = sizes
            total = sum(parameter.numel() for parameter in split.model.parameters())
            return lambda mu: 1 - float(sizes[split.dead_at(mu)].sum()) / total
        if example is None:
            raise InputError(
                f"A budget of {self.budget} counts what can be removed, for which the network is traced.",
                "Pass example=one input batch.",
            )
        graph = trace(split.model, example)
        attribute = "macs" if self.budget == "macs" else "parameters"
        dense = getattr(graph.dense(), attribute)
        if split.grouping == "coupled":
            costs = _costs(graph, macs=self.budget == "macs")
            self._costs = costs if self.by_cost else torch.ones_like(costs)

        def left(mu: float) -> float:
            if split.grouping == "coupled":
                return getattr(graph.count(split.dead_at(mu)), attribute) / dense
            with split.sparse_at(mu):
                return getattr(graph.count(), attribute) / dense

        return left

    def plan(self, step: int) -> float:
        """The share to be kept after `step` steps."""
        start, length = self.begin * self.steps, max(1.0, self.ramp * self.steps)
        progress = min(1.0, max(0.0, (step - start) / length))
        return self.kept + (1 - self.kept) * (1 - progress) ** 3

    @torch.no_grad()
    def set_to(self, kept: float) -> float:
        """Set the splitting's lam so that this share is kept as nearly as whole groups allow; returns the share
        kept."""
        if isinstance(self.split, RGSM) and self._costs is not None:
            self.split.reweigh(self._costs)
        sizes = self.split.critical_mus()
        if isinstance(self.split, RVSM):
            count = round((1 - kept) * self.split.summary().parameters)
            mu = 0.0 if count == 0 else float(sizes.kthvalue(min(count, len(sizes))).values)
            self.split.lam = mu * self.split.beta
            return self._measure(mu)
        # Removing the k weakest groups, for k = 0 ... all: bisection over k, half-way between neighbouring critical
        # values.
        ordered = sizes.sort().values.tolist()
        edges = [0.0, *((a + b) / 2 for a, b in itertools.pairwise(ordered)), ordered[-1] * 1.001]
        low, high = 0, len(edges) - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._measure(edges[middle]) >= kept else (low, middle)
        best = min((low, high), key=lambda k: abs(self._measure(edges[k]) - kept))
        self.split.lam = edges[best] * self.split.beta
        return self._measure(edges[best])

    # A sparsifier like the splitting it steers.

    def attach(self, optimizer: Optimizer) -> RemovableHandle:
        """Attach the splitting and count the optimiser's steps."""
        handle = self.split.attach(optimizer)
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        return handle

    def detach(self) -> None:
        """Detach both."""
        self.split.detach()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _after_step(self, *_: Any) -> None:
        self.step += 1
        if self.step > self.final:
            self._hold()
            return
        every = max(1, self.steps // SETTINGS_PER_RUN)
        if self.step % every == 0 or self.step == self.final:
            self.set_to(self.plan(self.step))
        if self.step == self.final < self.steps:
            self._choose()

    @torch.no_grad()
    def _choose(self) -> None:
        """Make the zeros of u zeros of w, for good."""
        shadow = self.split.shadow()
        for weight in self.split.weights:
            weight.tensor.masked_fill_(shadow[weight.name] == 0, 0.0)
        self.split.lam = 0.0

    @torch.no_grad()
    def _hold(self) -> None:
        """Take back what the step did to the weights that are gone."""
        assert self._kept is not None
        for weight, kept in zip(self.split.weights, self._kept, strict=True):
            weight.tensor.mul_(kept)

    def _before_step(self, *_: Any) -> None:
        # From the weights themselves, which a checkpoint holds, so that a resumed run needs nothing else.
        if self.step >= self.final and self.step < self.steps and self._kept is None:
            self._kept = [weight.tensor.detach() != 0 for weight in self.split.weights]

    def end_epoch(self) -> None:
        """The splitting's."""
        self.split.end_epoch()

    def sparse_model(self) -> nn.Module:
        """The splitting's."""
        return self.split.sparse_model()

    def summary(self) -> Summary:
        """The splitting's."""
        return self.split.summary()

    def state_dict(self) -> dict[str, Any]:
        """The splitting's coefficients and the step."""
        return {"split": self.split.state_dict(), "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.split.load_state_dict(state["split"])
        self.step = int(state["step"])
        self._kept = None


def _costs(graph: ChannelGraph, *, macs: bool) -> Tensor:
    """What each group costs in the dense network, in multiply-adds or parameters, ``(groups,)``: its slices and its filters."""
    costs = np.zeros(graph.num_groups)
    for layer in graph.layers:
        price = graph.parameter(layer.weight).numel() * (layer.positions if macs else 1)
        for side in (layer.inputs, layer.outputs):
            if side is not None:
                groups = graph.groups_of(side[1])
                np.add.at(costs, groups[groups >= 0], price / len(groups))
    return torch.from_numpy(costs)
