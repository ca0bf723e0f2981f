"""Rules of what moves entries about or makes tensors anew: views, permutations, shuffles, factories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gracile.channels.op import Op
from gracile.channels.records import Dims, Place, Values, Var
from gracile.channels.sizes import Attribute, Labels, Measured, Size
from gracile.channels.table import register_rule


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
        op.runs.append((start, stop, other, end))
        if any(labels is not None for labels in dims[start:stop]):
            flat = _merged(op, before[start:stop], dims[start:stop], start)
            made[other:end] = _apart(op, flat, after[other:end], other)
        start, other = stop, end
    return Dims(made)


def _merged(op: Op, shape: Sequence[int], dims: Sequence[Labels | None], at: int) -> Labels:
    """One dimension out of several: a channel becomes a block; two dimensions of channels become one of pairs."""
    labelled = [axis for axis, labels in enumerate(dims) if labels is not None and shape[axis] > 1]
    labelled = labelled or [axis for axis, labels in enumerate(dims) if labels is not None][:1]
    if len(labelled) == 1:
        kept = dims[labelled[0]]
    else:
        axes = [dims[axis] for axis in labelled]
        kept = op.fresh(math.prod(shape[axis] for axis in labelled))
        relation = op.ledger.relate(kept, axes, op.said)  # type: ignore[arg-type]
        op.merged.append(([at + axis for axis in labelled], relation))
    assert kept is not None
    placed = kept.reshape([size if axis in labelled else 1 for axis, size in enumerate(shape)])
    return np.broadcast_to(placed, tuple(shape)).reshape(-1)


def _apart(op: Op, flat: Labels, shape: Sequence[int], at: int) -> list[Labels | None]:
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
    op.parted.append(([at + axis for axis in depends], op.ledger.relate(kept, axes, op.said)))
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

    def repeated(one: torch.Tensor) -> torch.Tensor:
        return one if one.shape[at] == 1 and x.dims[at] is None else one.repeat_interleave(int(times), at)

    op.constants(lambda inputs: Values(repeated(inputs[0].value), repeated(inputs[0].known)))
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
    by_place = len(op.args) == 4 and all(isinstance(one, int) for one in op.args[1:])
    if op.key == "unfold" and (by_place or "dimension" in op.kwargs or "size" in op.kwargs):  # the method
        dim = int(op.argument(1, "dimension")) % len(x.shape)
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
