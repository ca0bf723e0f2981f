"""Rules of what puts tensors beside each other: concatenation, stacking, padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gracile.channels.op import Op
from gracile.channels.records import Dims, Values
from gracile.channels.table import NAMED, register_rule


@register_rule("cat")
def concatenate(op: Op) -> Dims:
    """Along one dimension one after the other; along the others they are one."""
    rank = len(op.shape)
    parts = [one for one in op.operands if len(one.shape) == rank]
    dim = int(op.argument(1, "dim", op.kwargs.get("axis", 0))) % rank
    dims = list(parts[0].dims)
    for axis in range(rank):
        if axis != dim:
            for one in parts[1:]:
                dims[axis] = op.join(dims[axis], one.dims[axis])
    if any(one.dims[dim] is not None for one in parts):
        joined = [one.dims[dim] if one.dims[dim] is not None else op.fixed(one.shape[dim]) for one in parts]
        dims[dim] = np.concatenate(joined)  # type: ignore[arg-type]

        def constants(inputs: Sequence[Values]) -> Values | None:
            if any(max(one.value.dim() for one in inputs) != one.value.dim() for one in inputs):
                return None
            pairs = []
            for values, one in zip(inputs, parts, strict=True):
                shape = list(values.known.shape)
                shape[dim] = one.shape[dim]
                pairs.append((values.value.expand(shape), values.known.expand(shape)))
            if len({tuple(value.shape[:dim] + value.shape[dim + 1 :]) for value, _ in pairs}) > 1:
                return None
            return Values(torch.cat([value for value, _ in pairs], dim), torch.cat([known for _, known in pairs], dim))

        op.constants(constants)
    else:
        dims[dim] = None
    return Dims(dims)


@register_rule("stack")
def stack(op: Op) -> Dims:
    """A new dimension of fixed size; the others are one."""
    dims = list(op.operands[0].dims)
    for one in op.operands[1:]:
        dims = [op.join(mine, theirs) for mine, theirs in zip(dims, one.dims, strict=True)]
    dims.insert(int(op.argument(1, "dim", 0)) % len(op.shape), None)
    return Dims(dims)


@register_rule("pad", "constant_pad_nd", "zero_pad2d")
def pad(op: Op) -> Dims:
    """Constant channels around the given ones (option-A shortcuts), or pixels around the image."""
    x, rank = op.x, len(op.x.shape)
    amounts = [int(amount) for amount in op.argument(1, "pad")]
    mode = op.argument(2, "mode", "constant") if op.key == "pad" else "constant"
    value = (op.argument(3, "value", None) if op.key == "pad" else op.argument(2, "value", None)) or 0.0
    dims = list(x.dims)
    channels = spatial = None
    for axis in range(rank):
        where = 2 * (rank - 1 - axis)
        around = amounts[where : where + 2] if len(amounts) > where else [0, 0]
        if not any(around):
            continue
        labels = dims[axis]
        if labels is None:
            spatial = mode == "constant"
        elif mode != "constant" or min(around) < 0:
            op.pin(labels, f"{op.said} pads with other channels")
            dims[axis] = op.fixed(op.shape[axis])
        else:
            before, after = op.fresh(around[0]), op.fresh(around[1])
            dims[axis] = np.concatenate([before, labels, after])
            channels = (axis, before, after)
            name = "kwargs" if "pad" in op.kwargs else "args"
            for offset, part in ((0, before), (1, after)):
                given = op.argument(1, "pad")[where + offset]
                if len(part):
                    op.follows(given, part, (name, "pad" if name == "kwargs" else 1, where + offset))

    def constants(inputs: Sequence[Values]) -> Values:
        inside = inputs[0]
        numbers, known = inside.value, inside.known
        if channels is not None:
            axis, before, after = channels
            numbers, known = _padded(numbers, known, axis, len(before), len(after), value, x.shape[axis])
        return Values(numbers, known & (numbers == value) if spatial else known)

    op.constants(constants, makes=channels is not None)
    return Dims(dims)


def _padded(
    numbers: Tensor, known: Tensor, axis: int, before: int, after: int, value: float, size: int
) -> tuple[Tensor, Tensor]:
    shape = list(numbers.shape)
    shape[axis] = size
    numbers, known = numbers.expand(shape), known.expand(shape)

    def filled(like: Tensor, number: int, what: Any) -> Tensor:
        wanted = list(like.shape)
        wanted[axis] = number
        return like.new_full(wanted, what)

    return (
        torch.cat([filled(numbers, before, value), numbers, filled(numbers, after, value)], axis),
        torch.cat([filled(known, before, True), known, filled(known, after, True)], axis),
    )


def padded_channels(op: Op) -> Dims:
    """A module that puts `before` and `after` zero channels around its input.

    It asks for this with ``channel_rule = "padded_channels"``.
    """
    module: Any = op.module
    labels = op.x.dims[1]
    if labels is None:
        return op.x.dims
    before, after = op.fresh(module.before), op.fresh(module.after)
    op.size("before", before)
    op.size("after", after)

    def constants(inputs: Sequence[Values]) -> Values:
        return Values(*_padded(inputs[0].value, inputs[0].known, 1, len(before), len(after), 0.0, op.x.shape[1]))

    op.constants(constants, makes=True)
    return Dims((op.x.dims[0], np.concatenate([before, labels, after]), *op.x.dims[2:]))


NAMED["padded_channels"] = padded_channels
