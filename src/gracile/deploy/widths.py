"""How wide a shrunk network's convolutions are left: all that can go goes, or they keep channels by fours where that is faster."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from gracile.shrinking import plan, shrink
from gracile.shrinking.multiples import BLOCK

# What is gained by fours at least, or a busy machine decides.
GAIN = 1.1


def candidates(model: nn.Module, example: Tensor) -> dict[int, nn.Module]:
    """The shrunk network by the multiple of channels that its convolutions keep: 1, and `BLOCK` where that is another network.

    Args:
        model: with exact zeros.
        example: (2, ...) inputs.
    """
    macs = {number: plan(model, example, dead="fold", multiple_of={"conv": number}).after.macs for number in (1, BLOCK)}
    wanted = [1] if macs[1] == macs[BLOCK] else [1, BLOCK]
    return {number: shrink(model, example, dead="fold", multiple_of={"conv": number}) for number in wanted}


def faster(times: Mapping[int, float]) -> int:
    """The multiple to take, given the time each of the `candidates` needs: 1 unless fours gain a tenth at least."""
    return BLOCK if times[1] > GAIN * times.get(BLOCK, times[1]) else 1
