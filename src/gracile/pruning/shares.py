"""Which units go when a share of them does, layer by layer or over the whole network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from gracile.core.errors import InputError, NonFiniteError, nearest
from gracile.penalties import largest

Scope = Literal["layer", "network"]
Of = Literal["weights", "parameters"]


@dataclass(frozen=True)
class Budget:
    """In place of a share of channels that goes: what is to stay of the multiply-adds.

    Attributes:
        macs: share in (0, 1] of the multiply-adds that stays at most.
    """

    macs: float


Amount = float | Budget


def amount(name: str, share: float | None, macs: float | None, unit: str = "channel", *, otherwise: float) -> Amount:
    """How much goes: a share of channels, or whatever a budget of multiply-adds asks for.

    Args:
        name: of the share.
        share: in [0, 1), or None.
        macs: in (0, 1), or None for the share.
        unit: what goes.
        otherwise: the share where neither is given.

    Raises:
        InputError: both are given, one is out of range, or multiply-adds are to go by single weights.
    """
    if macs is None:
        return check_share(name, otherwise if share is None else share)
    if share is not None:
        raise InputError(f"{name}={share} and macs={macs} say twice how much goes.", "Give one of them.")
    if unit == "weight":
        raise InputError("Zeroing single weights removes no multiply-adds.", f"Use unit='channel', or give {name}.")
    if not 0 < macs < 1:
        raise InputError(f"The budget macs={macs} is not between 0 and 1.", "It is a share of the dense network.")
    return Budget(float(macs))


def of_weights(share: Amount, of: Of, unit: str, weights: int, parameters: int) -> Amount:
    """The share of the pruned weights that goes, where another may be meant.

    Args:
        share: what goes.
        of: what it is a share of: the weights that are pruned, or all parameters of the network, biases and norms among them.
        unit: what goes.
        weights: how many are pruned.
        parameters: how many the network has.

    Raises:
        InputError: no such `of`, a share of parameters for channels, or one that is more than all weights.
    """
    if of not in get_args(Of):
        raise InputError(f"There is no share of '{of}'.", nearest(of, get_args(Of)))
    if of == "weights":
        return share
    if isinstance(share, Budget) or unit != "weight":
        raise InputError("A share of the parameters is for single weights.", "Leave of out, or use unit='weight'.")
    if share * parameters >= weights:
        raise InputError(
            f"{share:g} of the {parameters:,} parameters is more than the {weights:,} weights that may go.",
            f"Take less than {weights / parameters:.3f}.",
        )
    return share * parameters / weights


def part_way(whole: Amount, progress: float) -> Amount:
    """How much goes on the way, after this share in [0, 1] of it."""
    if isinstance(whole, Budget):
        return Budget(1 - progress * (1 - whole.macs))
    return progress * whole


def survivors(parts: Sequence[Tensor], share: float, scope: Scope) -> tuple[list[Tensor], list[int]]:
    """Which entries stay when a share of them goes, smallest first, and no part is left without any.

    Args:
        parts: the sizes, (n_i,) each: the weights of a layer, or the channels of a kind.
        share: in [0, 1), of the entries that go; at most ``1 - share`` of them stay.
        scope: ``layer`` takes the share from each part, ``network`` from all together.

    Returns:
        One mask a part, and the numbers of the parts that would have lost everything and kept their largest entry.

    Raises:
        NonFiniteError: a size is NaN.

    >>> masks, guarded = survivors([torch.tensor([0.1, 0.2]), torch.tensor([3.0, 4.0])], 0.5, "network")
    >>> [mask.tolist() for mask in masks], guarded
    ([[False, True], [True, True]], [0])
    """
    counts = [len(part) for part in parts]
    if scope == "layer":
        masks = [_largest(part, _staying(len(part), share)) for part in parts]
    else:
        masks = list(_largest(torch.cat(list(parts)), _staying(sum(counts), share)).split(counts))
    guarded = []
    for number, (part, mask) in enumerate(zip(parts, masks, strict=True)):
        if len(part) and not bool(mask.any()):
            guarded.append(number)
            masks[number] = _largest(part, 1)
    return masks, guarded


def _largest(sizes: Tensor, count: int) -> Tensor:
    if bool(sizes.isnan().any()):
        raise NonFiniteError("A weight to be pruned is NaN.", "Lower lr, or start with a warm-up.")
    return largest(sizes[None], count)[0]


def _staying(count: int, share: float) -> int:
    # 0.6 of 5 is 3 and not 3.0000000000000004.
    return count - math.ceil(share * count - 1e-9)


def check_share(name: str, value: float, *, below: float = 1.0) -> float:
    """A share of what goes, or of the run.

    Raises:
        InputError: it is not in [0, below).
    """
    if not 0 <= value < below:
        raise InputError(f"{name}={value} is not a share from 0 to below {below:g}.", "Try 0.5.")
    return float(value)


def check_scope(scope: Scope) -> Scope:
    """The scope, if there is such a one.

    Raises:
        InputError: there is not.
    """
    if scope not in get_args(Scope):
        raise InputError(f"There is no scope '{scope}'.", nearest(scope, get_args(Scope)))
    return scope
