"""Random channels: what any way of choosing them has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gracile.core.seeding import generator
from gracile.pruning.once import OnceChosen
from gracile.pruning.shares import Scope


class RandomChannels(OnceChosen):
    """Train, drop channels drawn at random, fine-tune: the control of every method that chooses.

    Args:
        model: trained in place by your loop.
        steps: optimiser steps of the whole run.
        example: one input batch, to find the channels with.
        channels: share in [0, 1) of channels that go; 0.5 where neither this nor `macs` is given.
        macs: in place of it, the share in (0, 1) of the multiply-adds that stays at most.
        prune_at: share in [0, 1] of the run after which they go; the rest of it is fine-tuning.
        scope: the share is taken from each ``layer`` or from the whole ``network``.
        layers: whose channels may go: ``all``, a kind such as ``conv``, or names of modules.
        seed: of the draw.

    Raises:
        InputError: a value out of range, or channels that cannot be found.
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
        seed: int = 0,
    ) -> None:
        super().__init__(
            model, steps=steps, example=example, channels=channels, macs=macs, prune_at=prune_at, scope=scope, layers=layers
        )  # fmt: skip
        self._drawn = torch.rand(self._channels.count, generator=generator(seed, "random channels"))

    def _sizes(self) -> Tensor:
        return self._drawn.to(self.weights[0].tensor.device)
