"""Rules of what moves, joins, cuts or pools: concatenation, padding, slicing, flattening, pooling."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from gracile.channels.op import Count, Op, Slots, Traced, Values
from gracile.channels.table import NAMED, register_rule


@register_rule(
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
    nn.Upsample,
    nn.ReflectionPad1d,
    nn.ReflectionPad2d,
    nn.ReplicationPad1d,
    nn.ReplicationPad2d,
    F.max_pool1d,
    F.max_pool2d,
    F.max_pool3d,
    F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d,
    F.adaptive_avg_pool3d,
    F.adaptive_max_pool1d,
    F.adaptive_max_pool2d,
    F.adaptive_max_pool3d,
    F.interpolate,
)
def pool(op: Op) -> Slots:
    """Each channel by itself; a constant stays what it is."""
    slots = _batched(op)
    op.constants(lambda inputs: inputs[0])
    return slots


@register_rule(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
def average_pool(op: Op) -> Slots:
    """Each channel by itself; zero padding that is counted changes constants at the border."""
    slots = _batched(op)
    padding = getattr(op.module, "padding", None) if op.module is not None else op.argument(3, "padding", 0)
    uniform = not np.any(padding)
    op.constants(lambda inputs: inputs[0] if uniform else _zeros_only(inputs[0]))
    return slots


@register_rule(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d)
def zero_pad(op: Op) -> Slots:
    """Each channel by itself; only zero stays constant."""
    slots = _batched(op)
    op.constants(lambda inputs: _zeros_only(inputs[0]))
    return slots


def _batched(op: Op) -> Slots:
    if op.x.channels.axis != 1:
        op.refuse(f"its channels are dimension 1, but lie along {op.x.channels.axis}.", "Permute before it.")
    return op.x.channels


def _zeros_only(values: Values) -> Values:
    return Values(values.value, values.known & (values.value == 0))


@register_rule(torch.mean, "mean", torch.amax, "amax", torch.amin, "amin", torch.sum, "sum")
def reduce(op: Op) -> Slots:
    """A mean, sum, largest or smallest over space."""
    slots, rank = op.x.channels, len(op.x.shape)
    given = op.argument(1, "dim")
    dims = {dim % rank for dim in ([given] if isinstance(given, int) else given or range(rank))}
    if slots.axis in dims:
        op.refuse(
            "it reduces over the channels themselves, which then cannot be told apart.", "Reduce over space only."
        )
    summed = op.node.target in (torch.sum, "sum")
    op.constants(lambda inputs: _zeros_only(inputs[0]) if summed else inputs[0])
    lost = 0 if op.argument(2, "keepdim", False) else sum(dim < slots.axis for dim in dims)
    return Slots(slots.axis - lost, slots.labels)


@register_rule(torch.cat, torch.concat, torch.concatenate)
def concatenate(op: Op) -> Slots:
    """Over channels one set after the other; over another dimension the sets are united."""
    first = op.operands[0].channels
    dim = op.argument(1, "dim", 0) % len(op.x.shape)
    if any(one.channels.axis != first.axis for one in op.operands):
        op.refuse("its operands' channels lie along different dimensions.", "Permute one of them first.")
    if dim == first.axis:
        op.constants(
            lambda inputs: Values(torch.cat([one.value for one in inputs]), torch.cat([one.known for one in inputs]))
        )
        return Slots(dim, np.concatenate([one.channels.labels for one in op.operands]))
    for one in op.operands[1:]:
        op.unite(first.labels, one.channels.labels)
    return first


@register_rule(torch.stack)
def stack(op: Op) -> Slots:
    """A new dimension; the operands' channels are one, as for the members of an ensemble before their mean."""
    first = op.operands[0].channels
    dim = op.argument(1, "dim", 0) % (len(op.x.shape) + 1)
    for one in op.operands[1:]:
        op.unite(first.labels, one.channels.labels)
    return Slots(first.axis + (dim <= first.axis), first.labels)


@register_rule(F.pad)
def pad(op: Op) -> Slots:
    """Zero channels around the given ones (option-A shortcuts), or pixels around the image."""
    slots, rank = op.x.channels, len(op.x.shape)
    amounts = [int(amount) for amount in op.argument(1, "pad")]
    mode, value = op.argument(2, "mode", "constant"), op.argument(3, "value", None) or 0.0
    where = 2 * (rank - 1 - slots.axis)
    around = amounts[where : where + 2] if len(amounts) > where else [0, 0]
    spatial = any(amount for index, amount in enumerate(amounts) if index not in (where, where + 1))
    if any(around) and (mode != "constant" or min(around) < 0):
        op.refuse(f"padding channels by {around} in mode '{mode}' has no rule.", "Pad with constant channels.")
    before, after = op.fresh(around[0]), op.fresh(around[1])

    def rewrite(node: fx.Node, count: Count) -> None:
        changed = list(amounts)
        changed[where : where + 2] = count(before), count(after)
        _replace(node, 1, "pad", changed)

    if any(around):
        op.rewrite(rewrite)
    op.constants(
        lambda inputs: _padded(inputs[0], around[0], around[1], value, spatial and mode == "constant"),
        makes=any(around),
    )
    return Slots(slots.axis, np.concatenate([before, slots.labels, after]))


def _padded(inside: Values, before: int, after: int, value: float, bordered: bool) -> Values:
    values = torch.cat([inside.value.new_full((before,), value), inside.value, inside.value.new_full((after,), value)])
    ones = torch.ones(before + after, dtype=torch.bool, device=inside.known.device)
    known = torch.cat([ones[:before], inside.known, ones[before:]])
    return Values(values, known & (values == value) if bordered else known)


def padded_channels(op: Op) -> Slots:
    """A module that puts `before` and `after` zero channels around its input; asked for with ``channel_rule =
    "padded_channels"``."""
    slots, module = _batched(op), cast(Any, op.module)
    before, after = op.fresh(module.before), op.fresh(module.after)
    op.size("before", before)
    op.size("after", after)
    op.constants(lambda inputs: _padded(inputs[0], len(before), len(after), 0.0, False), makes=True)
    return Slots(1, np.concatenate([before, slots.labels, after]))


NAMED["padded_channels"] = padded_channels


@register_rule(operator.getitem)
def getitem(op: Op) -> Slots:
    """Slices of space, contiguous slices of channels, or one of several tensors."""
    key = op.args[1]
    if op.x.parts is not None:
        return op.x.parts[key]
    slots, rank = op.x.channels, len(op.x.shape)
    keys = list(key) if isinstance(key, tuple) else [key]
    if Ellipsis in keys:
        at = keys.index(Ellipsis)
        keys[at : at + 1] = [slice(None)] * (rank - len(keys) + 1)
    keys += [slice(None)] * (rank - len(keys))
    if (
        len(keys) != rank
        or not all(isinstance(one, slice | int) for one in keys)
        or not isinstance(keys[slots.axis], slice)
    ):
        op.refuse(
            f"indexing with {key!r} has no rule.", "Index with slices, or with whole numbers beside the channels."
        )
    op.constants(lambda inputs: Values(inputs[0].value[keys[slots.axis]], inputs[0].known[keys[slots.axis]]))
    axis = slots.axis - sum(isinstance(one, int) for one in keys[: slots.axis])
    chosen = keys[slots.axis]
    if chosen == slice(None):
        return Slots(axis, slots.labels)
    start, stop, step = chosen.indices(len(slots.labels))
    if step != 1:
        op.refuse(
            "a strided slice of channels has no rule.", "Use torch.index_select through a module with its own rule."
        )

    def rewrite(node: fx.Node, count: Count) -> None:
        changed = list(keys)
        changed[slots.axis] = slice(count(slots.labels[:start]), count(slots.labels[:stop]))
        node.args = (node.args[0], tuple(changed))

    op.rewrite(rewrite)
    return Slots(axis, slots.labels[start:stop])


@register_rule(torch.chunk, "chunk", torch.split, "split")
def split(op: Op) -> list[Slots]:
    """Contiguous parts of the channels."""
    slots = op.x.channels
    dim = op.argument(2, "dim", 0) % len(op.x.shape)
    if dim != slots.axis:
        op.refuse(f"splitting dimension {dim} beside the channels has no rule.", "Index with slices instead.")
    number = len(slots.labels)
    if op.node.target in (torch.chunk, "chunk"):
        width = math.ceil(number / op.argument(1, "chunks"))
        sizes: Any = width
    else:
        sizes = op.argument(1, "split_size" if op.node.target == "split" else "split_size_or_sections")
    if isinstance(sizes, int):
        sizes = [min(sizes, number - start) for start in range(0, number, sizes)]
    parts = np.split(slots.labels, np.cumsum(sizes)[:-1])

    def rewrite(node: fx.Node, count: Count) -> None:
        node.op, node.target = "call_function", torch.split
        node.args, node.kwargs = (node.args[0], [count(part) for part in parts], dim), {}

    op.rewrite(rewrite)
    return [Slots(dim, part) for part in parts]


@register_rule(
    nn.Flatten,
    torch.flatten,
    "flatten",
    "view",
    "reshape",
    torch.reshape,
    nn.Unflatten,
    "unsqueeze",
    "squeeze",
    torch.squeeze,
    torch.unsqueeze,
)
def reshape(op: Op) -> Slots:
    """Channels that keep their dimension, are merged with the pixels behind them, or are taken apart into blocks."""
    slots, before, after = op.x.channels, op.x.shape, op.shape
    assert after is not None
    number, behind = len(slots.labels), math.prod(before[slots.axis + 1 :])
    places = [axis for axis in range(len(after)) if math.prod(after[:axis]) == math.prod(before[: slots.axis])]
    places.sort(key=lambda axis: after[axis] != number)
    labels = slots.labels
    for axis in places:
        size = after[axis]
        if size % number == 0 and behind % (size // number) == 0:
            labels = np.repeat(labels, size // number)
            op.constants(functools.partial(_repeated, each=size // number))
            break
        if size > 1 and number % size == 0:
            blocks = labels.reshape(size, -1)
            op.unite(np.broadcast_to(blocks[:, :1], blocks.shape), blocks)
            labels = blocks[:, 0]
            break
    else:
        op.refuse(
            f"from {before} to {after} the channels (dimension {slots.axis}) are mixed with others.", "Register a rule."
        )
    _rewrite_sizes(op, axis, labels)
    return Slots(axis, labels)


def _repeated(inputs: Sequence[Values], each: int) -> Values:
    return Values(inputs[0].value.repeat_interleave(each), inputs[0].known.repeat_interleave(each))


def _rewrite_sizes(op: Op, axis: int, labels: np.ndarray) -> None:
    """Where a view names the number of channels literally, it must name the smaller one."""
    if op.node.target not in ("view", "reshape", torch.reshape):
        return
    sizes = list(op.node.args[1:])
    nested = len(sizes) == 1 and isinstance(sizes[0], list | tuple)
    if nested:
        sizes = list(cast(Sequence[Any], sizes[0]))
    if axis < len(sizes) and isinstance(sizes[axis], int) and sizes[axis] != -1:

        def rewrite(node: fx.Node, count: Count) -> None:
            changed = list(cast(Any, node.args[1]) if nested else node.args[1:])
            changed[axis] = count(labels)
            node.args = (node.args[0], tuple(changed)) if nested else (node.args[0], *changed)

        op.rewrite(rewrite)


@register_rule("expand", "expand_as")
def expand(op: Op) -> Slots:
    """Batch and space repeated; channels stay what they are."""
    slots, shape = op.x.channels, op.shape
    assert shape is not None
    axis = len(shape) - len(op.x.shape) + slots.axis
    if shape[axis] != len(slots.labels):
        op.refuse("repeating channels has no rule.", "Repeat over batch and space only.")
    sizes = list(op.node.args[1:])

    def rewrite(node: fx.Node, count: Count) -> None:
        changed = list(node.args[1:])
        changed[axis] = count(slots.labels)
        node.args = (node.args[0], *changed)

    if axis < len(sizes) and isinstance(sizes[axis], int) and sizes[axis] != -1:
        op.rewrite(rewrite)
    op.constants(lambda inputs: inputs[0])
    return Slots(axis, slots.labels)


@register_rule(torch.permute, "permute", torch.transpose, "transpose")
def permute(op: Op) -> Slots:
    """The channels move to another dimension."""
    slots, rank = op.x.channels, len(op.x.shape)
    given = [one for one in op.args if not isinstance(one, Traced)]
    order = list(range(rank))
    if op.node.target in (torch.permute, "permute"):
        dims = given[0] if given and isinstance(given[0], list | tuple) else given or op.kwargs["dims"]
        order = [dim % rank for dim in dims]
    else:
        one, two = (dim % rank for dim in (op.argument(1, "dim0"), op.argument(2, "dim1")))
        order[one], order[two] = two, one
    op.constants(lambda inputs: inputs[0])
    return Slots(order.index(slots.axis), slots.labels)


def _replace(node: fx.Node, position: int, name: str, value: Any) -> None:
    if name in node.kwargs:
        node.kwargs = {**node.kwargs, name: value}
    else:
        node.args = (*node.args[:position], value, *node.args[position + 1 :])
