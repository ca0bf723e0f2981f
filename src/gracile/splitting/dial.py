"""A dial instead of a guess: name the budget, and the coefficient is steered to it during the one training run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gracile.core.errors import InputError
from gracile.splitting.rgsm import RGSM
from gracile.splitting.rvsm import RVSM
from gracile.splitting.summary import Summary

Budget = Literal["macs", "params", "sparsity"]
# How often the coefficient is set anew while the budget shrinks: a hundred times follows the cubic to a percent.
SETTINGS_PER_RUN = 100


class Dial:
    """Steers a splitting's lam so that the run ends at a budget.

    At any moment the weights' sizes tell exactly which lam would zero which of them, so no search over runs is
    needed: the dial asks for the share that the
    budget's schedule names at this step, a cubic from everything to the target over the first part of the run (Zhu
    and Gupta 2017, eq. 1), sets lam to it, and goes on
    setting it to the end, because weights move.

    Args:
        split: an RVSM or RGSM, not yet attached; its own lam is not looked at.
        steps: optimiser steps of the whole run.
        macs, params: share in (0, 1) of multiply-adds or parameters that stay after physical removal. They need an
            RGSM and an example.
        sparsity: share in (0, 1) of exact zeros over all parameters.
        example: one input batch, to trace the network with.
        ramp: share in (0, 1] of the run during which the budget shrinks.

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
        ramp: float = 0.6,
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
        if not 0 < ramp <= 1:
            raise InputError(f"ramp={ramp} is not in (0, 1].", "It is a share of the run.")
        if steps < 1:
            raise InputError(f"steps={steps} must be at least 1.", "Give the number of optimiser steps of the run.")
        self.split, self.steps, self.ramp = split, steps, ramp
        self.budget: Budget = budget  # pyright: ignore[reportAttributeAccessIssue] - one of the three keys above
        # Inside, everything is a share that is kept.
        self.kept = 1 - value if budget == "sparsity" else value
        self.step = 0
        self._measure = self._measuring(example)
        self._handle: RemovableHandle | None = None
        least = self._measure(math.inf)
        if least > self.kept:
            name = f"{budget}={value:g}"
            reach = 1 - least if budget == "sparsity" else least
            raise InputError(
                f"The budget {name} is out of reach: with one group left a layer it comes to {reach:.3g}.",
                "Choose a milder budget, or pass keep_last=False.",
            )
        self.split.lam = 0.0

    def _measuring(self, example: Tensor | None) -> Callable[[float], float]:
        """The kept share as a function of mu; falls as mu rises."""
        split = self.split
        if isinstance(split, RVSM):
            if self.budget != "sparsity":
                raise InputError(
                    f"Zeroing single weights removes no {self.budget}: dense kernels compute with zeros.",
                    "Use RGSM, or give a budget of sparsity.",
                )
            return lambda mu: 1 - split.zeros_at(mu) / split.summary().parameters
        if self.budget == "sparsity":
            sizes = split.group_sizes()
            total = sum(parameter.numel() for parameter in split.model.parameters())
            return lambda mu: 1 - float(sizes[split.dead_at(mu)].sum()) / total
        if example is None:
            raise InputError(
                f"A budget of {self.budget} counts what can be removed, for which the network is traced.",
                "Pass example=one input batch.",
            )
        from gracile.channels import trace

        graph = trace(split.model, example)
        attribute = "macs" if self.budget == "macs" else "parameters"
        dense = getattr(graph.dense(), attribute)

        def left(mu: float) -> float:
            if split.grouping == "coupled":
                return getattr(graph.count(split.dead_at(mu)), attribute) / dense
            with split.sparse_at(mu):
                return getattr(graph.count(), attribute) / dense

        return left

    def plan(self, step: int) -> float:
        """The share to be kept after `step` steps."""
        progress = min(1.0, step / max(1.0, self.ramp * self.steps))
        return self.kept + (1 - self.kept) * (1 - progress) ** 3

    @torch.no_grad()
    def set_to(self, kept: float) -> float:
        """Set the splitting's lam so that this share is kept as nearly as whole groups allow; returns the share
        kept."""
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
        self._handle = optimizer.register_step_post_hook(self._after_step)
        return handle

    def detach(self) -> None:
        """Detach both."""
        self.split.detach()
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _after_step(self, *_: Any) -> None:
        self.step += 1
        every = max(1, self.steps // SETTINGS_PER_RUN)
        if self.step % every == 0 or self.step == self.steps:
            self.set_to(self.plan(self.step))

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
