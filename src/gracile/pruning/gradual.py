"""Gradual magnitude pruning: the smallest weights go, a few at a time."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from gracile.core.errors import InputError
from gracile.pruning.base import Pruning, at_step
from gracile.pruning.shares import Amount, Of, Scope, amount, check_scope, part_way
from gracile.pruning.units import units


class GradualMagnitude(Pruning):
    """Gradual magnitude pruning [@zhu2017]: the share of zeros rises along a cubic, eq. 1.

    A weight that went stays at zero.

    Args:
        model: trained in place by your loop.
        steps: optimiser steps of the whole run.
        sparsity: share in [0, 1) of weights, or of channels, that are gone at the end; 0.9 where neither this nor `macs` is given.
        of: what the share of single weights is of: ``weights``, those that are pruned, or ``parameters``, all of the network's, as a
            `Dial` counts zeros.
        macs: in place of it, for channels, the share in (0, 1) of the multiply-adds that stays at most at the end.
        begin: share of the run after which the first go.
        end: share of the run after which all are gone; the rest of it is fine-tuning.
        updates: how many times masks are chosen anew on the way.
        unit: ``weight``, or ``channel`` with every slice that reads it, by its l2 norm.
        example: one input batch, for ``channel``.
        scope: the share is taken from the whole ``network``, or from each ``layer`` as Zhu and Gupta have it, which is far weaker
            where layers are of unlike size: 62.6 against 88.7 % at 98 % zeros on an MLP.
        layers: ``all``, ``conv``, ``linear`` or module names.

    Raises:
        InputError: a value out of range, no such unit, or channels that cannot be found.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        steps: int,
        sparsity: float | None = None,
        of: Of = "weights",
        macs: float | None = None,
        begin: float = 0.0,
        end: float = 0.5,
        updates: int = 100,
        unit: str = "weight",
        example: Tensor | None = None,
        scope: Scope = "network",
        layers: str | Sequence[str] = "all",
    ) -> None:
        super().__init__(model, steps=steps, layers=layers)
        if not 0 <= begin < end <= 1:
            raise InputError(f"begin={begin} and end={end} do not fit into the run.", "They are rising shares of it.")
        if updates < 1:
            raise InputError(f"updates={updates} must be at least 1.", "Zhu and Gupta take some hundred.")
        self.amount = self._of_weights(amount("sparsity", sparsity, macs, unit, otherwise=0.9), of, unit)
        self.scope: Scope = check_scope(scope)
        self.first, self.last = at_step(begin, self.steps), at_step(end, self.steps)
        self.every = max(1, (self.last - self.first) // updates)
        self.units = units(unit, self.model, example, self.weights)
        self.units.check(self.amount)

    def plan(self, step: int) -> Amount:
        """What is gone after `step` steps."""
        progress = 1.0 if step >= self.last else max(0, step - self.first) / max(1, self.last - self.first)
        return part_way(self.amount, 1 - (1 - progress) ** 3)

    @property
    def settled(self) -> bool:
        return self.step >= self.last and self.masks is not None

    def _after(self) -> None:
        step = self.step
        if step == self.last or (self.first < step < self.last and (step - self.first) % self.every == 0):
            self._cut(*self.units.cut(self.values(), self.plan(step), self.scope))
