"""Rules of what takes parts of tensors, or writes into them: indices, slices, chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from gracile.channels.op import Op
from gracile.channels.records import Count, Dims, Values, Var
from gracile.channels.sizes import Labels, Size
from gracile.channels.table import register_rule


@register_rule("getitem")
def getitem(op: Op) -> Dims:
    """Slices, whole numbers, new dimensions and tensors of positions; constants where channels stay along one dimension."""
    x, key = op.x, op.args[1]
    keys = list(key) if isinstance(key, tuple) else [key]
    used = sum(_eats(one) for one in keys)
    if any(one is Ellipsis for one in keys):
        at = next(index for index, one in enumerate(keys) if one is Ellipsis)
        keys[at : at + 1] = [slice(None)] * (len(x.shape) - used)
    else:
        keys += [slice(None)] * (len(x.shape) - used)
    if any(isinstance(one, Var | list | Tensor) for one in keys):
        return _picked(op, keys)
    dims: list[Labels | None] = []
    axis, simple = 0, True
    for index, one in enumerate(keys):
        if one is None:
            dims.append(None)
            continue
        labels = x.dims[axis]
        if isinstance(one, slice):
            sliced = _sliced(op, labels, one, x.shape[axis], index, len(keys), keys)
            simple = simple and (sliced is labels or one.step in (None, 1))
            dims.append(sliced)
        else:
            op.pin(labels, f"{op.said} takes one by its number")
        axis += 1
    if simple:
        op.constants(lambda inputs: _index(inputs[0], keys))
    return Dims(dims)


def _eats(key: Any) -> int:
    if key is None or key is Ellipsis or isinstance(key, bool):
        return 0
    return len(key.shape) if isinstance(key, Var) and key.boolean else 1


def _index(values: Values, keys: Sequence[Any]) -> Values:
    """The same on constants, whose dimensions of fixed size are 1."""
    mine: list[Any] = []
    axis = 0
    for one in keys:
        if one is None:
            mine.append(None)
            continue
        if values.known.shape[axis] == 1:
            mine.append(0 if isinstance(one, int) else slice(None))
        else:
            mine.append(one if isinstance(one, int) else slice(*map(_number, (one.start, one.stop, one.step))))
        axis += 1
    return Values(values.value[tuple(mine)], values.known[tuple(mine)])


def _number(one: Any) -> Any:
    return int(one) if isinstance(one, Size) else one


def _sliced(
    op: Op, labels: Labels | None, key: slice, size: int, index: int, many: int, keys: list[Any]
) -> Labels | None:
    start, stop, step = slice(*map(_number, (key.start, key.stop, key.step))).indices(size)
    if labels is None:
        for one in (key.start, key.stop):
            op.follows(one, None, None)
        return None
    if (start, stop, step) == (0, size, 1) and key.stop is None:
        return labels
    if step > 1 and size % step == 0 and start < step and (key.stop is None or stop == size):
        members = labels.reshape(-1, step)
        op.unite(np.broadcast_to(members[:, :1], members.shape), members)
        return labels[start::step]
    if step != 1:
        op.pin(labels, f"{op.said} takes them in strides")
        return labels[start:stop:step]
    for name, given, place in (("start", key.start, start), ("stop", key.stop, stop)):
        if given is None or (int(given) == 0 and name == "start"):
            continue
        if int(given) < 0:
            wanted, sign = labels[place:], -1
        elif int(given) > size:
            continue
        else:
            wanted, sign = labels[:place], 1
        op.follows(given if sign > 0 else -given, wanted, None, _slice_writer(index, name, wanted, sign, many))
    return labels[start:stop]


def _slice_writer(index: int, name: str, labels: Labels, sign: int, many: int) -> Any:
    def write(node: fx.Node, count: Count) -> None:
        written = node.args[1]
        keys: list[Any] = list(written) if isinstance(written, tuple) else [written]
        if Ellipsis in keys:
            at = keys.index(Ellipsis)
            keys[at : at + 1] = [slice(None)] * (many - len(keys) + 1)
        keys += [slice(None)] * (many - len(keys))
        old = keys[index]
        new = {"start": old.start, "stop": old.stop, name: sign * count(labels)}
        keys[index] = slice(new["start"], new["stop"], old.step)
        node.args = (node.args[0], tuple(keys))

    return write


def _picked(op: Op, keys: list[Any]) -> Dims:
    """Positions from tensors or lists: the dimensions that they pick from are fixed, the others pass through."""
    x = op.x
    axis, kept, where = 0, [], []
    for one in keys:
        if one is None:
            kept.append(None)
            continue
        if isinstance(one, slice):
            kept.append(
                _sliced(op, x.dims[axis], one, x.shape[axis], 0, 1, keys)
                if one == slice(None)
                else _hold(op, x.dims[axis])
            )
            axis += 1
        else:
            eaten = _eats(one)
            for _ in range(max(eaten, 1)):
                if axis < len(x.dims):
                    op.pin(x.dims[axis], f"{op.said} takes them by numbers")
                axis += 1
            where.append(len(kept))
    for one in op.operands[1:]:
        for labels in one.dims:
            op.pin(labels, f"{op.said} uses it as positions")
    extra = len(op.shape) - len(kept)
    adjacent = where and where[-1] == where[0]
    at = where[0] if adjacent else 0
    return Dims([*kept[:at], *[None] * extra, *kept[at:]]) if extra >= 0 else Dims([None] * len(op.shape))


def _hold(op: Op, labels: Labels | None) -> None:
    op.pin(labels, f"{op.said} takes them by numbers")


@register_rule("setitem", "copy", "masked_scatter", "index_put", "_index_put_impl")
def write(op: Op) -> Dims:
    """Writing into a part: what is written into whole lines up with it, what is cut is fixed."""
    x = op.x
    if op.key == "copy":
        for mine, theirs in zip(reversed(x.dims), reversed(op.operands[1].dims), strict=False):
            op.join(mine, theirs)
        return x.dims
    key = op.args[1] if len(op.args) > 1 else None
    keys = list(key) if isinstance(key, tuple) else [key]
    value = op.args[2] if len(op.args) > 2 else None
    plain = op.key == "setitem" and all(
        isinstance(one, slice) or one is Ellipsis or type(one) in (int, Size) for one in keys
    )
    if not plain or any(labels is not None for labels in (value.dims if isinstance(value, Var) else ())):
        op.pin_all(f"{op.said} writes into a part of it")
        return x.dims
    whole = [one == slice(None) for one in keys]
    if Ellipsis in keys:
        at = keys.index(Ellipsis)
        whole[at : at + 1] = [True] * (len(x.shape) - len(keys) + 1)
    for axis, one in enumerate(whole):
        if not one:
            op.pin(x.dims[axis], f"{op.said} writes into a part of it")
    return x.dims


@register_rule("chunk", "split", "tensor_split")
def split(op: Op) -> list[Dims]:
    """Contiguous parts of one dimension."""
    x = op.x
    dim = int(op.argument(2, "dim", op.kwargs.get("axis", 0))) % len(x.shape)
    labels = x.dims[dim]
    if labels is None:
        return [x.dims] * len(op.results)
    sizes = [one[dim] for one in op.results]
    parts = np.split(labels, np.cumsum(sizes)[:-1])
    given = (
        op.args[1]
        if len(op.args) > 1
        else next(value for name, value in op.kwargs.items() if name not in ("dim", "axis"))
    )

    def rewrite(node: fx.Node, count: Count) -> None:
        node.op, node.target = "call_function", torch.split
        node.args, node.kwargs = (node.args[0], [count(part) for part in parts], dim), {}

    if op.key in ("chunk", "tensor_split") and isinstance(given, int):
        op.even(parts, rewrite)
    elif op.key == "tensor_split":
        op.pin(labels, f"{op.said} cuts them at written places")
    elif isinstance(given, int):
        op.follows(given, parts[0], None, rewrite)
        op.even(parts, rewrite)
    else:
        for one, part in zip(given, parts, strict=True):
            op.follows(one, part, None, rewrite)

    def one_of(number: int) -> Dims:
        return Dims(parts[number] if axis == dim else one for axis, one in enumerate(x.dims))

    def constants(inputs: Sequence[Values]) -> list[Values]:
        shape = list(inputs[0].known.shape)
        shape[dim] = x.shape[dim]
        values, known = inputs[0].value.expand(shape).split(sizes, dim), inputs[0].known.expand(shape).split(sizes, dim)
        return [Values(one, other) for one, other in zip(values, known, strict=True)]

    op.constants(constants)
    return [one_of(number) for number in range(len(sizes))]


@register_rule("glu")
def glu(op: Op) -> Dims:
    """Half of a dimension gates the other half: pairs are one channel."""
    x = op.x
    dim = int(op.argument(1, "dim", -1)) % len(x.shape)
    labels = x.dims[dim]
    if labels is None:
        return x.dims
    half = len(labels) // 2
    op.unite(labels[:half], labels[half:])
    return Dims(labels[:half] if axis == dim else one for axis, one in enumerate(x.dims))


@register_rule("unbind", "iter")
def unbind(op: Op) -> list[Dims]:
    """One tensor for each position of a dimension, which is fixed."""
    dim = int(op.argument(1, "dim", 0)) % len(op.x.shape)
    op.pin(op.x.dims[dim], f"{op.said} takes them one by one")
    dims = Dims(one for axis, one in enumerate(op.x.dims) if axis != dim)
    op.constants(lambda inputs: [_selected(inputs[0], dim, number) for number in range(len(op.results))])
    return [dims] * len(op.results)


def _selected(values: Values, dim: int, number: int) -> Values:
    number = 0 if values.known.shape[dim] == 1 else number
    return Values(values.value.select(dim, number), values.known.select(dim, number))


@register_rule(
    "select", "narrow", "slice", "index_select", "gather", "take_along_dim", "index", "diagonal", "tril", "triu", "take"
)
def pick(op: Op) -> Dims:
    """Parts along one dimension, which is fixed unless it is taken whole."""
    x = op.x
    if op.key in ("tril", "triu"):
        for labels in x.dims[-2:]:
            op.pin(labels, f"{op.said} tells them apart by position")
        return Dims((*x.dims[:-2], None, None))
    if op.key in ("index", "diagonal", "take"):
        op.pin_all(f"{op.said} takes them by numbers")
        return Dims([None] * len(op.shape))
    dim = int(op.argument(1, "dim", 0)) % len(x.shape)
    if op.key == "slice":
        start, stop, step = op.argument(2, "start"), op.argument(3, "end"), op.argument(4, "step", 1)
        return Dims(
            _sliced(op, one, slice(start, None if stop is not None and int(stop) >= x.shape[axis] else stop, step), x.shape[axis], 0, 1, [])
            if axis == dim else one for axis, one in enumerate(x.dims)
        )  # fmt: skip
    op.pin(x.dims[dim], f"{op.said} takes them by numbers")
    dims: list[Labels | None] = [None if axis == dim else one for axis, one in enumerate(x.dims)]
    if op.key == "select":
        del dims[dim]
        op.constants(lambda inputs: _selected(inputs[0], dim, int(op.argument(2, "index"))))
    if op.key in ("gather", "take_along_dim"):
        op.pin_all(f"{op.said} takes them by numbers")
        dims = [None] * len(op.shape)
    return Dims(dims)
