"""ADMM: the alternating direction method of multipliers on a set of sparse weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError, check_state
from gracile.pruning.base import Pruning, at_step
from gracile.pruning.shares import Of, Scope, amount, check_scope, check_share
from gracile.pruning.units import units


class ADMM(Pruning):
    """Pruning by ADMM [@zhang2018, "A systematic DNN weight pruning framework using ADMM"; @dinh2020, 3.4].

    Minimises f(w) over weights with at most a share of units that are not zero, by

        w <- gradient steps on f(w) + rho/2 |w - u + z/rho|^2
        u <- the projection of w + z/rho on the sparse set
        z <- z + rho (w - u)

    and a hard projection of w at the end. Unlike a splitting, z pulls until w = u.

    Args:
        model: trained in place by your loop.
        steps: optimiser steps of the whole run.
        sparsity: share in [0, 1) of weights, or of channels, that go; 0.6 where neither this nor `macs` is given.
        of: what the share of single weights is of: ``weights``, those that are pruned, or ``parameters``, all of the network's, as a
            `Dial` counts zeros.
        macs: in place of it, for channels, the share in (0, 1) of the multiply-adds that stays at most.
        rho: strength of the coupling, above 0.
        unit: ``weight``, or ``channel`` with every slice that reads it; see `gracile.channels`.
        example: one input batch, for ``channel``.
        scope: the share is taken from each ``layer`` (Zhang et al.) or from the whole ``network``.
        every: steps between two updates of u and z; None for once an epoch, as Zhang et al. have it.
        retrain: share in [0, 1) of the run, at its end, in which the zeros are held and the rest trains on, without
            coupling. With 0 the projection comes after the last step.
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
        rho: float = 1e-2,
        unit: str = "weight",
        example: Tensor | None = None,
        scope: Scope = "layer",
        every: int | None = None,
        retrain: float = 0.0,
        layers: str | Sequence[str] = "all",
    ) -> None:
        super().__init__(model, steps=steps, layers=layers)
        if not 0 < rho < float("inf"):
            raise InputError(f"rho must be a finite number above 0, not {rho}.", "The papers use 1e-3 to 1e-2.")
        if every is not None and every < 1:
            raise InputError(f"every={every} must be at least 1 step.", "Leave it out for once an epoch.")
        self.amount = self._of_weights(amount("sparsity", sparsity, macs, unit, otherwise=0.6), of, unit)
        self.rho, self.every = float(rho), every
        self.scope: Scope = check_scope(scope)
        self.units = units(unit, self.model, example, self.weights)
        self.units.check(self.amount)
        self.final = at_step(1 - check_share("retrain", retrain), self.steps)
        self.u: list[Tensor] = []
        self.z: list[Tensor] = []

    @torch.no_grad()
    def _start(self) -> None:
        # Here and not before: the loop may have moved the weights to another device or memory layout. A state that was loaded
        # stays.
        if self.u:
            return
        self.u = self._projected(self.values())
        self.z = [torch.zeros_like(value) for value in self.u]

    def _projected(self, values: list[Tensor]) -> list[Tensor]:
        masks, _ = self.units.cut(values, self.amount, self.scope)
        return [value * mask for value, mask in zip(values, masks, strict=True)]

    @torch.no_grad()
    def update(self) -> None:
        """Update u and z once."""
        w = self.values()
        self.u = self._projected([a + b / self.rho for a, b in zip(w, self.z, strict=True)])
        for a, u, z in zip(w, self.u, self.z, strict=True):
            z.add_(a - u, alpha=self.rho)

    def end_epoch(self) -> None:
        """Update u and z, unless `every` says otherwise."""
        if self.every is None and self.masks is None:
            self.update()

    def _before(self, factor: float | Tensor) -> None:
        if self.masks is None:
            for weight, w, u, z in zip(self.weights, self.values(), self.u, self.z, strict=True):
                self._add(weight.tensor, self.rho * (w - u) + z, factor)

    def _after(self) -> None:
        if self.masks is not None:
            return
        if self.step == self.final:
            self._cut(*self.units.cut(self.values(), self.amount, self.scope))
        elif self.every is not None and self.step % self.every == 0:
            self.update()

    @torch.no_grad()
    def _preview(self) -> list[Tensor] | None:
        return self.masks or self.units.cut(self.values(), self.amount, self.scope)[0]

    def state_dict(self) -> dict[str, Any]:
        """Step, masks, u and z."""
        return {**super().state_dict(), "u": self.u, "z": self.z}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        check_state(state, ("u", "z"), self)
        super().load_state_dict(state)
        # Laid out like the weights: sums over another order of memory round differently.
        self.u, self.z = (
            [torch.empty_like(value).copy_(kept) for value, kept in zip(self.values(), state[name], strict=True)]
            for name in ("u", "z")
        )
