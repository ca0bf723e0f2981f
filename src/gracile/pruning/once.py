"""Methods that choose their channels once, at a moment of the run, and fine-tune what stays."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gracile.core.prunable import weights
from gracile.pruning.base import Pruning, at_step
from gracile.pruning.shares import Scope, amount, check_scope
from gracile.pruning.units import Channels


class OnceChosen(Pruning):
    """Train, drop the smallest channels, fine-tune.

    Args:
        model: trained in place by your loop.
        steps: optimiser steps of the whole run.
        example: one input batch, to find the channels with.
        channels: share in [0, 1) of channels that go; 0.5 where neither this nor `macs` is given.
        macs: in place of it, the share in (0, 1) of the multiply-adds that stays at most.
        prune_at: share in [0, 1] of the run after which they go; the rest of it is fine-tuning.
        scope: the share is taken from each ``layer`` or from the whole ``network``.
        layers: whose channels may go: ``all``, a kind such as ``conv``, or names of modules.

    Raises:
        InputError: a value out of range, channels that cannot be found, or no such layer.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        steps: int,
        example: Tensor,
        channels: float | None = None,
        macs: float | None = None,
        prune_at: float = 0.5,
        scope: Scope = "layer",
        layers: str | Sequence[str] = "all",
    ) -> None:
        # All weights are acted on, since whoever reads a channel loses a slice with it.
        super().__init__(model, steps=steps, layers="all")
        share = amount("channels", channels, macs, otherwise=0.5)
        self.scope: Scope = check_scope(scope)
        self.at = at_step(prune_at, self.steps)
        self.units = self._channels = Channels(self.model, example, self.weights)
        if layers != "all":
            self._channels.restrict({weight.layer for weight in weights(self.model, layers)})
        self.amount = self._channels.check(share)

    @abstractmethod
    def _sizes(self) -> Tensor:
        """What channels are ranked by, ``(channels,)``; the smallest go."""

    @torch.no_grad()
    def _after(self) -> None:
        if self.step == self.at and self.amount != 0:
            kept, guarded = self._channels.keep(self._sizes(), self.amount, self.scope)
            self._cut(self._channels.masks(kept), guarded)
