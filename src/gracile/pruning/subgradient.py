"""Group lasso by plain subgradient descent: the penalty without its proximal map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError
from gracile.pruning.once import OnceChosen
from gracile.pruning.shares import Scope


class SubgradientGroupLasso(OnceChosen):
    """Add ``lam sum_g |w_g|`` to the loss and let the optimiser descend it [@wen2016].

    The subgradient of a group is ``lam w_g / |w_g|``, and 0 at zero. Steps of fixed length jump across zero, so groups
    become small and never exactly zero: without a cut the method removes nothing. With one, the groups of smallest norm
    go at `prune_at` and the rest is fine-tuned without the penalty.

    Args:
        model: trained in place by your loop.
        steps: optimiser steps of the whole run.
        example: one input batch, to find the channels with.
        lam: weight of the penalty, at least 0.
        channels: share in [0, 1) of channels that are cut, 0 for none; 0.5 where neither this nor `macs` is given.
        macs: in place of it, the share in (0, 1) of the multiply-adds that stays at most.
        prune_at: share in [0, 1] of the run after which they are.
        scope: the share is taken from each ``layer`` or from the whole ``network``.

    Raises:
        InputError: a value out of range, or channels that cannot be found.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        steps: int,
        example: Tensor,
        lam: float = 1e-3,
        channels: float | None = None,
        macs: float | None = None,
        prune_at: float = 0.5,
        scope: Scope = "layer",
    ) -> None:
        super().__init__(
            model, steps=steps, example=example, channels=channels, macs=macs, prune_at=prune_at, scope=scope
        )
        if not 0 <= lam < float("inf"):
            raise InputError(f"lam must be a finite number of at least 0, not {lam}.", "Start from 1e-3.")
        self.lam = float(lam)

    @torch.no_grad()
    def penalty_value(self) -> Tensor:
        """``lam sum_g |w_g|``, a scalar."""
        return self.lam * self._channels.norms(self.values()).sum()

    def _before(self, factor: float | Tensor) -> None:
        if self.masks is not None:
            return
        norms = self._channels.norms(self.values())
        slopes = torch.where(norms > 0, self.lam / norms, 0.0)
        for weight, slope in zip(self.weights, self._channels.spread(slopes, 0.0), strict=True):
            w = weight.tensor.detach()
            self._add(weight.tensor, w * slope.to(w), factor)

    def _sizes(self) -> Tensor:
        return self._channels.norms(self.values())
