"""Network slimming: an l1 penalty on batch-norm scales tells which channels can go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from gracile.core.errors import InputError
from gracile.pruning.once import OnceChosen
from gracile.pruning.shares import Scope
from gracile.pruning.units import batch_norm_scales, mean_scales


class NetworkSlimming(OnceChosen):
    """Network slimming [@liu2017, "Learning efficient convolutional networks through network slimming"].

    While the network trains, ``lam sum |gamma|`` over the batch-norm scales is descended by its subgradient. Then the
    channels with the smallest scales over the whole network go, and the rest is fine-tuned. A layer that the global
    percentile would empty keeps its strongest channel, with a `CollapseWarning`: the published method breaks there.

    Args:
        model: trained in place by your loop; has batch-norms.
        steps: optimiser steps of the whole run.
        example: one input batch, to find the channels with.
        channels: share in [0, 1) of channels that go; 0.5 where neither this nor `macs` is given.
        macs: in place of it, the share in (0, 1) of the multiply-adds that stays at most.
        lam: weight of the penalty, at least 0; the paper takes 1e-4 for VGG and 1e-5 for ResNets.
        prune_at: share in [0, 1] of the run after which they go; the rest of it is fine-tuning.
        scope: the percentile over the whole ``network`` (Liu et al.) or within each ``layer``.
        layers: whose channels may go: ``all``, a kind such as ``conv``, or names of modules.

    Raises:
        InputError: a value out of range, channels that cannot be found, or none that is batch-normalised.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        steps: int,
        example: Tensor,
        channels: float | None = None,
        macs: float | None = None,
        lam: float = 1e-4,
        prune_at: float = 0.5,
        scope: Scope = "network",
        layers: str | Sequence[str] = "all",
    ) -> None:
        super().__init__(
            model, steps=steps, example=example, channels=channels, macs=macs, prune_at=prune_at, scope=scope, layers=layers
        )  # fmt: skip
        if not 0 <= lam < float("inf"):
            raise InputError(f"lam must be a finite number of at least 0, not {lam}.", "Liu et al. take 1e-4.")
        self.lam = float(lam)
        if not self._scales:
            raise InputError(
                "Network slimming ranks channels by batch-norm scales, and this network has none on a removable channel.",
                "Use l1_filters, or a model with batch-norms.",
            )

    @property
    def _scales(self) -> list[tuple[nn.Parameter, np.ndarray]]:
        # By name whenever they are used: parameters may be replaced.
        return batch_norm_scales(self._channels.graph)

    def _before(self, factor: float | Tensor) -> None:
        if self.masks is None:
            for scale, _ in self._scales:
                self._add(scale, self.lam * scale.detach().sign(), factor)

    def _sizes(self) -> Tensor:
        return mean_scales(self._scales, self._channels.count)
