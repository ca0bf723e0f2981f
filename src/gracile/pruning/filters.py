"""Filter pruning by l1 norm."""

from __future__ import annotations

from torch import Tensor

from gracile.pruning.once import OnceChosen


class L1Filters(OnceChosen):
    """Train, drop the filters of smallest l1 norm, fine-tune [@li2017, "Pruning filters for efficient ConvNets"].

    A channel is as large as the l1 norm of the filter that makes it; where a residual sum couples channels of several
    layers, as the sum of their norms (Li et al. let the shortcut alone decide).

    Args:
        model: trained in place by your loop.
        steps: optimiser steps of the whole run.
        example: one input batch, to find the channels with.
        channels: share in [0, 1) of channels that go; 0.5 where neither this nor `macs` is given.
        macs: in place of it, the share in (0, 1) of the multiply-adds that stays at most.
        prune_at: share in [0, 1] of the run after which they go; the rest of it is fine-tuning.
        scope: the share is taken from each ``layer`` (Li et al.) or from the whole ``network``.
        layers: whose channels may go: ``all``, a kind such as ``conv``, or names of modules.

    Raises:
        InputError: a value out of range, or channels that cannot be found.
    """

    def _sizes(self) -> Tensor:
        return self._channels.filters_l1()
