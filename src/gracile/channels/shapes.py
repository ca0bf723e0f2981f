"""Rules of what moves, joins, cuts or pools: concatenation, padding, slicing, views, reductions, pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from gracile.channels.elementwise import broadcast
from gracile.channels.op import Count, Dims, Op, Place, Values, Var
from gracile.channels.sizes import Attribute, Labels, Measured, Size
from gracile.channels.table import NAMED, register_rule

POOLS = """max_pool1d max_pool2d max_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
adaptive_max_pool2d adaptive_max_pool3d interpolate upsample reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d
_adaptive_avg_pool2d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d boolean_dispatch max_pool1d_with_indices
max_pool2d_with_indices max_pool3d_with_indices fractional_max_pool2d lp_pool1d lp_pool2d grid_sample max_unpool1d max_unpool2d
max_unpool3d unfold_positions local_response""".split()  # noqa: SIM905
EXACT = {"lp_pool1d", "lp_pool2d", "grid_sample", "max_unpool1d", "max_unpool2d", "max_unpool3d"}


@register_rule(*POOLS, "avg_pool1d", "avg_pool2d", "avg_pool3d")
def pool(op: Op) -> Dims | list[Dims]:
    """Each channel by itself over positions; a constant stays what it is where nothing is padded."""
    x = op.x
    first = 2 if len(x.shape) == len(op.shape) and len(x.shape) > 2 else 0
    space = {"1d": 1, "2d": 2, "3d": 3}.get(_digits(op.key), len(x.shape) - first)
    first = max(first if space == len(x.shape) - first else len(x.shape) - space, 0)
    for axis in range(first, len(x.shape)):
        op.pin(x.dims[axis], f"{op.said} mixes positions")
    for other in op.operands[1:]:
        for mine, theirs in zip(x.dims[:first], other.dims[:first], strict=False):
            if op.key.startswith("max_unpool"):
                op.join(mine, theirs)
            else:
                op.pin(theirs, f"{op.said} reads positions from it")
    dims = Dims((*x.dims[:first], *[None] * (len(op.shape) - first)))
    if op.key.startswith("avg_pool"):
        padding, divisor = op.argument(3, "padding", 0), op.argument(6, "divisor_override")
        uniform = not np.any(padding) and not op.argument(4, "ceil_mode", False) and divisor is None
        op.constants(lambda inputs: inputs[0] if uniform else zeros_only(inputs[0]))
    elif op.key not in EXACT:
        op.constants(lambda inputs: inputs[0])
    return dims if len(op.results) == 1 else [dims] * len(op.results)


def _digits(key: str) -> str:
    return next((one for one in ("1d", "2d", "3d") if one in key), "")


def zeros_only(values: Values) -> Values:
    """Only what is zero stays constant."""
    return Values(values.value, values.known & (values.value == 0))


REDUCTIONS = """mean sum amax amin prod max min std var std_mean var_mean norm vector_norm logsumexp any all argmax argmin median nanmean
nansum count_nonzero aminmax mode kthvalue topk quantile norm_except_dim""".split()  # noqa: SIM905


@register_rule(*REDUCTIONS)
def reduce(op: Op) -> Dims | list[Dims]:
    """Dimensions that are reduced hold their channels, for all of them make the result; the others pass through."""
    x, rank = op.x, len(op.x.shape)
    if op.key in ("max", "min") and len(op.operands) > 1:  # of two tensors
        return broadcast(op, op.operands, op.shape)
    position = {"norm": 2, "vector_norm": 2, "kthvalue": 2, "topk": 2, "quantile": 2}.get(op.key, 1)
    given = op.argument(position, "dim", op.kwargs.get("axis"))
    if isinstance(given, bool | Var):
        given = None
    if given is None:
        given = (
            [-1]
            if op.key in ("topk", "kthvalue", "mode") or (op.key == "median" and len(op.results) > 1)
            else list(range(rank))
        )
    reduced = {int(one) % rank for one in (given if isinstance(given, list | tuple) else [given])} or set(range(rank))
    for axis in reduced:
        op.pin(x.dims[axis], f"{op.said} reduces over all of them")
    kept = len(op.shape) == rank
    dims = Dims(
        None if axis in reduced else labels for axis, labels in enumerate(x.dims) if kept or axis not in reduced
    )
    if op.key in ("mean", "amax", "amin", "sum") and all(x.dims[axis] is None for axis in reduced):
        axes = sorted(reduced)

        def constants(inputs: Sequence[Values]) -> Values:
            value, known = inputs[0].value, inputs[0].known
            if not kept:
                shape = [size for axis, size in enumerate(value.shape) if axis not in axes]
                value, known = value.reshape(shape), known.reshape(shape)
            return zeros_only(Values(value, known)) if op.key == "sum" else Values(value, known)

        op.constants(constants)
    return dims if len(op.results) == 1 else [dims] * len(op.results)


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
    return [dims] * len(op.results)


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
    if op.key in ("gather", "take_along_dim"):
        op.pin_all(f"{op.said} takes them by numbers")
        dims = [None] * len(op.shape)
    return Dims(dims)


@register_rule("flatten", "view", "reshape", "unflatten", "reshape_as", "ravel")
def reshape(op: Op) -> Dims:
    """Dimensions merged and taken apart; see `regroup`."""
    x = op.x
    if op.key == "view" and len(op.args) > 1 and isinstance(op.args[1], torch.dtype):
        op.pin_all(f"{op.said} reads its memory as another type")
        return Dims([None] * len(op.shape))
    dims = regroup(op, x.shape, x.dims, op.shape)
    if op.key == "unflatten":
        dim = int(op.argument(1, "dim")) % len(x.shape)
        sizes = list(op.argument(2, "sizes", op.kwargs.get("unflattened_size", ())))
        wanted = [(dim + index, ("args", 2, index)) for index in range(len(sizes))]
        for one, (axis, place) in zip(sizes, wanted, strict=True):
            _size_of(op, one, dims[axis], place)
    elif op.key in ("view", "reshape"):
        sizes, places = op.listed(1, "shape", "size")
        for axis, (one, place) in enumerate(zip(sizes, places, strict=True)):
            _size_of(op, one, dims[axis], place)
    op.constants(lambda inputs: _reshaped(inputs[0], x, op.shape, dims))
    return dims


def _size_of(op: Op, size: Any, labels: Labels | None, place: Place) -> None:
    if size != -1:
        op.follows(size, labels, place)


def _reshaped(values: Values, x: Var, shape: Sequence[int], dims: Dims) -> Values | None:
    """Constants in another shape; a dimension that gets no labels must hold one number."""
    if values.known.numel() == 1:
        ones = [1] * len(shape)
        return Values(values.value.reshape(ones), values.known.reshape(ones))
    value, known = values.value.expand(x.shape).reshape(list(shape)), values.known.expand(x.shape).reshape(list(shape))
    for axis, labels in enumerate(dims):
        if labels is None and shape[axis] > 1:
            first = value.narrow(axis, 0, 1)
            known = (known & (value == first)).all(axis, keepdim=True)
            value = first
    return Values(value, known)


def regroup(op: Op, before: Sequence[int], dims: Sequence[Labels | None], after: Sequence[int]) -> Dims:
    """Labels behind a view: dimensions are matched in runs of equal product, and each run is merged, then taken apart."""
    made: list[Labels | None] = [None] * len(after)
    start = other = 0
    while start < len(before) and other < len(after):
        stop, end = start + 1, other + 1
        mine, theirs = before[start], after[other]
        while mine != theirs:
            if mine < theirs:
                mine *= before[stop]
                stop += 1
            else:
                theirs *= after[end]
                end += 1
        # A single channel goes with what follows it, as (n, 1, h, w) is flattened; not with the batch before it.
        while stop < len(before) and before[stop] == 1 and (dims[stop] is None or math.prod(before[stop:]) == 1):
            stop += 1
        while end < len(after) and after[end] == 1:
            end += 1
        if any(labels is not None for labels in dims[start:stop]):
            flat = _merged(op, before[start:stop], dims[start:stop])
            made[other:end] = _apart(op, flat, after[other:end])
        start, other = stop, end
    return Dims(made)


def _merged(op: Op, shape: Sequence[int], dims: Sequence[Labels | None]) -> Labels:
    """One dimension out of several: a channel becomes a block; two dimensions of channels become one of pairs."""
    labelled = [axis for axis, labels in enumerate(dims) if labels is not None and shape[axis] > 1]
    labelled = labelled or [axis for axis, labels in enumerate(dims) if labels is not None][:1]
    if len(labelled) == 1:
        kept = dims[labelled[0]]
    else:
        axes = [dims[axis] for axis in labelled]
        kept = op.fresh(math.prod(shape[axis] for axis in labelled))
        op.ledger.relate(kept, axes, op.said)  # type: ignore[arg-type]
    assert kept is not None
    placed = kept.reshape([size if axis in labelled else 1 for axis, size in enumerate(shape)])
    return np.broadcast_to(placed, tuple(shape)).reshape(-1)


def _apart(op: Op, flat: Labels, shape: Sequence[int]) -> list[Labels | None]:
    """Several dimensions out of one: a dimension along which the label does not change has none."""
    cube = flat.reshape(tuple(shape))
    depends = [axis for axis, size in enumerate(shape) if size > 1 and bool((cube != cube.take([0], axis)).any())]
    made: list[Labels | None] = [None] * len(shape)
    if not depends:  # a single channel
        op.pin(np.unique(flat), "its size is fixed")
        wide = [axis for axis, size in enumerate(shape) if size > 1] or [0]
        if len(wide) == 1:
            made[wide[0]] = flat
        return made
    index = tuple(slice(None) if axis in depends else 0 for axis in range(len(shape)))
    kept = cube[index]
    if len(depends) == 1:
        made[depends[0]] = kept
        return made
    axes = [op.fresh(shape[axis]) for axis in depends]
    op.ledger.relate(kept, axes, op.said)
    for axis, labels in zip(depends, axes, strict=True):
        made[axis] = labels
    return made


@register_rule("unsqueeze", "squeeze")
def squeeze(op: Op) -> Dims:
    """Dimensions of size 1 come and go."""
    x = op.x
    if op.key == "unsqueeze":
        at = int(op.argument(1, "dim")) % len(op.shape)
        dims = Dims((*x.dims[:at], None, *x.dims[at:]))
    else:
        given = op.argument(1, "dim")
        rank = len(x.shape)
        some = (
            range(rank)
            if given is None
            else [int(one) % rank for one in (given if isinstance(given, list | tuple) else [given])]
        )
        gone = {axis for axis in some if x.shape[axis] == 1}
        dims = Dims(labels for axis, labels in enumerate(x.dims) if axis not in gone)

    def constants(inputs: Sequence[Values]) -> Values:
        shape = [1 if labels is None else len(labels) for labels in dims]
        if inputs[0].known.numel() != math.prod(shape):
            shape = [1] * len(dims)
        return Values(inputs[0].value.reshape(shape), inputs[0].known.reshape(shape))

    op.constants(constants)
    return dims


@register_rule("expand", "expand_as", "broadcast_to", "repeat", "tile")
def expand(op: Op) -> Dims:
    """Batch, positions and dimensions of size 1 repeated; channels stay what they are."""
    x, shape = op.x, op.shape
    repeats = op.key in ("repeat", "tile")
    ahead = len(shape) - len(x.shape)
    dims: list[Labels | None] = [None] * len(shape)
    for axis, labels in enumerate(x.dims):
        if shape[ahead + axis] == x.shape[axis]:
            dims[ahead + axis] = labels
        else:
            op.pin(labels, f"{op.said} repeats it")
    if op.key == "expand_as":
        other = op.operands[1]
        dims = [op.join(mine, theirs) if shape[axis] == (x.shape[axis - ahead] if axis >= ahead else 0) else mine
                for axis, (mine, theirs) in enumerate(zip(dims, other.dims, strict=True))]  # fmt: skip
        for axis, theirs in enumerate(other.dims):
            if dims[axis] is None and theirs is not None:
                dims[axis] = theirs  # as many as the other tensor has
    elif not repeats:
        sizes, places = op.listed(1, "size", "shape")
        for axis, (one, place) in enumerate(zip(sizes, places, strict=True)):
            if one == -1:
                continue
            if dims[axis] is None and isinstance(one, Size):
                dims[axis] = _measured(one)
            _size_of(op, one, dims[axis], place)
    op.constants(lambda inputs: _expanded(inputs[0], len(shape)))
    return Dims(dims)


def _measured(size: Size) -> Labels | None:
    """The labels of the dimension that a size was read from."""
    return size.origin.labels if isinstance(size.origin, Measured) else None


def _expanded(values: Values, rank: int) -> Values:
    shape = [1] * (rank - values.known.dim()) + list(values.known.shape)
    return Values(values.value.reshape(shape), values.known.reshape(shape))


@register_rule("repeat_interleave")
def interleave(op: Op) -> Dims:
    """A channel becomes several."""
    x, times = op.x, op.argument(1, "repeats")
    dim = op.argument(2, "dim")
    if not isinstance(times, int) or dim is None:
        op.pin_all(f"{op.said} repeats it")
        return Dims([None] * len(op.shape))
    at = int(dim) % len(x.shape)
    return Dims(
        np.repeat(one, int(times)) if axis == at and one is not None else one for axis, one in enumerate(x.dims)
    )


@register_rule("permute", "transpose", "t", "T", "mT", "H", "mH", "movedim", "adjoint")
def permute(op: Op) -> Dims:
    """Dimensions move."""
    x, rank = op.x, len(op.x.shape)
    order = list(range(rank))
    if op.key == "permute":
        order = [int(one) % rank for one in op.listed(1, "dims")[0]]
    elif op.key == "movedim":
        source, target = (
            [int(one) % rank for one in (given if isinstance(given, list | tuple) else [given])]
            for given in (op.argument(1, "source"), op.argument(2, "destination"))
        )
        order = [one for one in range(rank) if one not in source]
        for to, one in sorted(zip(target, source, strict=True)):
            order.insert(to, one)
    elif op.key == "transpose":
        one, two = (int(op.argument(place, name)) % rank for place, name in ((1, "dim0"), (2, "dim1")))
        order[one], order[two] = two, one
    elif op.key in ("mT", "mH", "adjoint"):
        order[-1], order[-2] = order[-2], order[-1]
    else:
        order.reverse()
    op.constants(lambda inputs: Values(inputs[0].value.permute(order), inputs[0].known.permute(order)))
    op.record.order = order
    return Dims(x.dims[one] for one in order)


@register_rule("flip")
def flip(op: Op) -> Dims:
    """Channels in the opposite order."""
    rank = len(op.x.shape)
    over = {int(one) % rank for one in op.listed(1, "dims")[0]}
    return Dims(one[::-1] if axis in over and one is not None else one for axis, one in enumerate(op.x.dims))


@register_rule("pixel_shuffle", "pixel_unshuffle")
def pixel_shuffle(op: Op) -> Dims:
    """Blocks of channels become pixels, or pixels channels."""
    x, by = op.x, int(op.argument(1, "upscale_factor", op.kwargs.get("downscale_factor"))) ** 2
    labels = x.dims[-3]
    if labels is None:
        return Dims([*x.dims[:-3], None, None, None])
    if op.key == "pixel_unshuffle":
        return Dims([*x.dims[:-3], np.repeat(labels, by), None, None])
    members = labels.reshape(-1, by)
    op.unite(np.broadcast_to(members[:, :1], members.shape), members)
    return Dims([*x.dims[:-3], members[:, 0], None, None])


@register_rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(op: Op) -> Dims:
    """The same places out of every group are interleaved; removal goes evenly out of the groups."""
    labels, groups = op.x.dims[1], int(op.argument(1, "groups"))
    if labels is None:
        return op.x.dims
    members = labels.reshape(groups, -1)
    op.unite(np.broadcast_to(members[:1], members.shape), members)
    return Dims((op.x.dims[0], members.T.reshape(-1), *op.x.dims[2:]))


@register_rule("unfold", "im2col")
def unfold(op: Op) -> Dims:
    """Patches beside each other: a channel becomes a block."""
    x = op.x
    if op.key == "unfold" and len(op.args) == 4 and all(isinstance(one, int) for one in op.args[1:]):  # the method
        dim = int(op.args[1]) % len(x.shape)
        op.pin(x.dims[dim], f"{op.said} mixes positions")
        return Dims([*[None if axis == dim else one for axis, one in enumerate(x.dims)], None])
    for labels in x.dims[2:]:
        op.pin(labels, f"{op.said} mixes positions")
    labels = x.dims[1]
    return Dims((x.dims[0], None if labels is None else np.repeat(labels, op.shape[1] // x.shape[1]), None))


@register_rule("fold", "col2im")
def fold(op: Op) -> Dims:
    """Blocks of features become a channel's patch."""
    labels = op.x.dims[1]
    if labels is None:
        return Dims([op.x.dims[0], None, None, None])
    members = labels.reshape(op.shape[1], -1)
    op.unite(np.broadcast_to(members[:, :1], members.shape), members)
    return Dims((op.x.dims[0], members[:, 0], None, None))


@register_rule("meshgrid", "broadcast_tensors")
def unrelated(op: Op) -> list[Dims]:
    """Grids of positions."""
    op.pin_all(f"{op.said} spreads it")
    return [Dims([None] * len(one)) for one in op.results]


FACTORIES = """zeros ones full empty
arange linspace rand randn randint eye tensor as_tensor new_zeros new_ones new_full new_empty new_tensor
scalar_tensor empty_strided logspace randperm one_hot hann_window tril_indices triu_indices""".split()  # noqa: SIM905


@register_rule(*FACTORIES)
def factory(op: Op) -> Dims | list[Dims]:
    """A tensor made inside the model: of sizes that follow where they were read from others or from a module, else fixed."""
    for one in op.operands if op.key == "one_hot" else ():
        for labels in one.dims:
            op.pin(labels, f"{op.said} reads its values")
    dims: list[Labels | None] = [None] * len(op.shape)
    if op.key.removeprefix("new_") not in ("zeros", "ones", "full", "empty", "rand", "randn"):
        return Dims(dims)
    sizes, places = op.listed(int(op.key.startswith("new_")), "size")
    if sizes and isinstance(sizes[0], list | tuple):  # with further arguments behind it
        first = places[0]
        sizes, places = list(sizes[0]), [(*first, axis) for axis in range(len(sizes[0]))]
    for axis, (one, place) in enumerate(zip(sizes[: len(dims)], places, strict=False)):
        if isinstance(one, Size) and op.shape[axis] > 1:
            dims[axis] = _measured(one) if isinstance(one.origin, Measured) else None
            if isinstance(one.origin, Attribute):
                dims[axis] = op.fresh(op.shape[axis])
            op.follows(one, dims[axis], place)
    return Dims(dims)
