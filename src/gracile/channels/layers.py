"""Rules of the layers with weights: convolutions, embeddings, normalisations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from gracile.channels.op import Op
from gracile.channels.records import Dims, Values, Var
from gracile.channels.sizes import Labels
from gracile.channels.table import NAMED, register_rule


@register_rule("convolution")
def convolution(op: Op) -> Dims:
    """Reads its input channels and makes new ones; with groups, each reads its own."""
    if op.argument(6, "groups") is True:  # the ATen form says whether it is transposed
        return transposed_convolution(op)
    x, weight, bias = op.operands[0], op.operands[1], _given(op, 2, "bias")
    aten = len(op.args) > 8
    padding = op.argument(4, "padding", 0)
    groups: Any = op.args[8] if aten else op.argument(6, "groups", 1)
    axis = _channel_axis(op, x, weight)
    made, read = weight.dims[0], weight.dims[1]
    _fix(op, weight, range(2, len(weight.shape)), "it is a position in a kernel")
    _fix(op, x, range(axis + 1, len(x.shape)), f"{op.said} mixes positions")
    op.join(made, bias.dims[0] if bias is not None else made)
    pair = _grouped(op, groups, x, axis, weight) if int(groups) > 1 else None
    if int(groups) == 1:
        op.join(x.dims[axis], read, _input_or_fixed(x, op))
    pads = padding != "valid" if isinstance(padding, str) else bool(np.any(padding))
    positions = op.positions(x, math.prod(op.shape[axis + 1 :]) * (op.shape[0] if axis else 1))
    op.reads(
        weight,
        x,
        outputs=0,
        inputs=1,
        positions=positions,
        along=x.dims[:axis],
        folds=not pads and pair is None,
        bias=bias,
        groups=pair,
    )
    op.constants(lambda inputs: affine(op, inputs, axis, 0, int(groups), pads))
    return _image(op, x, axis, made)


def _image(op: Op, x: Var, axis: int, made: Labels | None) -> Dims:
    """The labels of a convolution's result."""
    dims: list[Labels | None] = [None] * len(op.shape)
    if axis:
        dims[0] = x.dims[0]
    layer = op.record.layer
    dims[axis] = layer.outputs[1] if made is None and layer is not None else made
    return Dims(dims)


def _given(op: Op, position: int, name: str) -> Var | None:
    found = op.argument(position, name)
    return found if isinstance(found, Var) else None


def _channel_axis(op: Op, x: Var, weight: Var) -> int:
    return len(x.shape) - (len(weight.shape) - 1)


def _fix(op: Op, x: Var, axes: Sequence[int] | range, reason: str) -> None:
    for axis in axes:
        op.pin(x.dims[axis], reason)


def _input_or_fixed(x: Var, op: Op) -> str:
    return (
        "it is an input of the network"
        if x.node is not None and x.node.op == "placeholder"
        else f"{op.said} reads a fixed number"
    )


def _grouped(op: Op, groups: Any, x: Var, axis: int, weight: Var) -> tuple[Labels, Labels]:
    """The same places go out of every group, or whole groups with all they read and make."""
    number = int(groups)
    each, made = x.shape[axis] // number, weight.shape[0] // number
    group = op.fresh(number)
    own = weight.dims[1]
    inside = own if own is not None else op.fixed(each)
    read = x.dims[axis]
    if read is None:
        op.pin(group, "it reads inputs of the network" if x.node is not None else "its size is fixed")
        op.pin(inside, "its size is fixed")
    elif each == 1:
        op.unite(read, group)
    else:
        op.ledger.relate(read, [group, inside], op.said, grouped=True)
    out = weight.dims[0]
    if out is None:
        op.pin(group, "its size is fixed")
    elif made == 1:
        op.unite(out, group)
    else:
        op.ledger.relate(out, [group, op.fresh(made)], op.said, grouped=True)
    place = ("kwargs", "groups") if "groups" in op.kwargs else ("args", 6)
    op.follows(groups, group, place)
    return group, inside


@register_rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(op: Op) -> Dims:
    """As a convolution, with the weight's first two dimensions exchanged."""
    x, weight, bias = op.operands[0], op.operands[1], _given(op, 2, "bias")
    aten = len(op.args) > 8
    groups: Any = op.args[8] if aten else op.argument(6, "groups", 1)
    axis = _channel_axis(op, x, weight)
    _fix(op, weight, range(2, len(weight.shape)), "it is a position in a kernel")
    _fix(op, x, range(axis + 1, len(x.shape)), f"{op.said} mixes positions")
    positions = op.positions(x, math.prod(x.shape[axis + 1 :]) * (x.shape[0] if axis else 1))
    number = int(groups)
    if number == 1:
        made = weight.dims[1]
        op.join(x.dims[axis], weight.dims[0], _input_or_fixed(x, op))
        op.reads(weight, x, outputs=1, inputs=0, positions=positions, along=x.dims[:axis], folds=False, bias=bias)
        op.constants(lambda inputs: affine(op, inputs, axis, 1, 1, True))
    else:
        made = _grouped_transposed(op, groups, x, axis, weight, positions, bias)
    op.join(made, bias.dims[0] if bias is not None else made)
    return _image(op, x, axis, made)


def _grouped_transposed(
    op: Op, groups: Any, x: Var, axis: int, weight: Var, positions: int, bias: Var | None
) -> Labels | None:
    """The weight is (inputs, outputs a group, ...): whole groups go, or the same outputs of every group that nothing reads."""
    number = int(groups)
    each, made = x.shape[axis] // number, weight.shape[1]
    group = op.fresh(number)
    rows, columns = weight.dims[0], weight.dims[1]
    op.join(x.dims[axis], rows, _input_or_fixed(x, op))
    if rows is None:
        op.pin(group, "its size is fixed")
    elif each == 1:
        op.unite(rows, group)
    else:
        inside = op.fresh(each)
        op.pin(inside, f"{op.said} is grouped: its groups go whole")
        op.ledger.relate(rows, [group, inside], op.said, grouped=True)
    out = op.fresh(number * made)
    op.ledger.relate(out, [group, columns if columns is not None else op.fixed(made)], op.said, grouped=True)
    op.pin(weight.dims[1], f"{op.said} is grouped: its groups go whole")
    op.follows(groups, group, ("kwargs", "groups") if "groups" in op.kwargs else ("args", 6))
    both = (group, op.fixed(each))
    op.reads(
        weight, x, outputs=0, inputs=1, positions=positions, along=x.dims[:axis], folds=False, bias=bias, groups=both
    )
    return out


def affine(op: Op, inputs: Sequence[Values], axis: int, output: int, groups: int, bordered: bool) -> Values | None:
    """Rows that see nothing but constants: bias plus the weighted constants, where zero padding leaves those uniform.

    Args:
        op: a convolution or linear layer: values of x, weight and perhaps bias.
        inputs: the operands' values.
        axis: of the channels in x.
        output: the weight's dimension of the outputs.
        groups: of a convolution.
        bordered: whether zeros are read beside the image.
    """
    weight = inputs[1].value
    bias = inputs[2].value.reshape(-1) if len(inputs) > 2 else None
    if not bool(inputs[1].known.all()):
        return None
    weight = weight.movedim(output, 0)
    number = weight.shape[0]
    along = inputs[0].along(weight.shape[1] * groups)
    if along is None:
        return None
    value, known = along
    weight = weight.reshape(groups, number // groups, weight.shape[1], -1)
    value, known = value.reshape(groups, 1, -1), known.reshape(groups, 1, -1)
    if bordered:
        known = known & (value == 0)
    read = (weight != 0).any(-1)
    constant = ~(read & ~known).any(-1)
    total = torch.where(known, weight.sum(-1) * value, torch.zeros((), dtype=weight.dtype)).sum(-1).reshape(-1)
    if bias is not None:
        total = total + bias
    shape = [1] * len(op.shape)
    shape[axis] = number
    return Values(total.reshape(shape), constant.reshape(shape))


@register_rule("embedding", "embedding_bag")
def embedding(op: Op) -> Dims:
    """Rows of a table: its features are channels that nothing makes."""
    ids, table = op.operands[:2]
    if ids.param is not None and table.param is None:  # the ATen form has the table first
        ids, table = table, ids
    _fix(op, table, [0], f"'{table.param[0] if table.param else op.name}' has a row for each entry of its vocabulary")
    rest = len(op.shape) - 1
    return Dims((*ids.dims[:rest], *[None] * max(0, rest - len(ids.dims)), table.dims[-1]))


@register_rule("batch_norm", "native_batch_norm", "instance_norm")
def batch_norm(op: Op) -> Dims:
    """Each channel by itself."""
    x = op.x
    for one in op.operands[1:]:
        op.join(x.dims[1], one.dims[0])
    if op.key == "batch_norm":
        op.constants(lambda inputs: _normalised(op, inputs))
    return x.dims


def _normalised(op: Op, inputs: Sequence[Values]) -> Values | None:
    """By running statistics; those of the batch take a constant to zero."""
    if not all(bool(values.known.all()) for values in inputs[1:]):
        return None
    names = ["running_mean", "running_var", "weight", "bias"]
    if not isinstance(op.call, FunctionType):  # torch's own, which the function of torch.nn.functional calls
        names = names[2:] + names[:2]
    given = {id(one): values.value.reshape(-1) for one, values in zip(op.operands, inputs, strict=True)}
    shape = [1] * len(op.shape)
    shape[1] = op.shape[1]
    parts = {
        name: given[id(one)].reshape(shape)
        for position, name in enumerate(names, 1)
        if (one := _given(op, position, name)) is not None
    }
    eps = next((one for one in (*op.args[5:], *op.kwargs.values()) if isinstance(one, float) and one < 0.05), 1e-5)
    eps = op.argument(7, "eps", eps)
    value = inputs[0].value
    if "running_mean" not in parts or op.argument(5, "training", False):
        value = torch.zeros_like(value)
    else:
        value = (value - parts["running_mean"]) * torch.rsqrt(parts["running_var"] + eps)
    value = value * parts.get("weight", 1.0) + parts.get("bias", 0.0)
    return Values(value, inputs[0].known.expand(value.shape))


def l1_batch_norm(op: Op) -> Dims:
    """As batch-norm, with a running mean absolute deviation; asked for with ``channel_rule = "l1_batch_norm"``."""
    module = cast(Any, op.module)
    labels = op.x.dims[1]
    if labels is not None:
        for name in ("weight", "bias", "running_mean", "running_dev"):
            op.tensor(name, {0: labels})
        op.size("num_features", labels)

    def constants(inputs: Sequence[Values]) -> Values:
        shape = [1] * len(op.shape)
        shape[1] = op.shape[1]
        value = inputs[0].value
        with torch.no_grad():
            value = (value - module.running_mean.reshape(shape)) / (module.running_dev.reshape(shape) + module.eps)
            if module.weight is not None:
                value = value * module.weight.detach().reshape(shape) + module.bias.detach().reshape(shape)
        return Values(value, inputs[0].known.expand(value.shape))

    op.constants(constants)
    return op.x.dims


NAMED["l1_batch_norm"] = l1_batch_norm


@register_rule("group_norm", "native_group_norm")
def group_norm(op: Op) -> Dims | list[Dims]:
    """The channels of a group share their statistics: a group goes whole, and a single group cannot go."""
    x = op.x
    weights = op.operands[1:]
    groups = op.argument(1, "num_groups") if op.key == "group_norm" else op.args[6]
    labels = x.dims[1]
    for one in weights:
        op.join(labels, one.dims[0])
    if labels is not None:
        if int(groups) == 1:
            op.pin(labels, f"{op.said} normalises all channels by one statistic")
        else:
            _block(op, labels, groups, ("kwargs", "num_groups") if "num_groups" in op.kwargs else ("args", 1))
    return Dims(x.dims) if len(op.results) == 1 else [x.dims, *[Dims([None] * len(one)) for one in op.results[1:]]]


def _block(op: Op, labels: Labels, groups: Any, place: tuple[Any, ...]) -> None:
    members = labels.reshape(int(groups), -1)
    op.unite(np.broadcast_to(members[:, :1], members.shape), members)
    op.follows(groups, members[:, 0], place)


@register_rule("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm")
def layer_norm(op: Op) -> Dims | list[Dims]:
    """Channels that are normalised together cannot go; channels beside the normalised dimensions pass through."""
    x = op.x
    number = len(cast(Sequence[int], op.argument(1, "normalized_shape")))
    for axis in range(len(x.shape) - number, len(x.shape)):
        op.pin(x.dims[axis], f"{op.said} normalises all channels by one statistic")
    for one in op.operands[1:]:
        for labels in one.dims:
            op.pin(labels, f"{op.said} normalises all channels by one statistic")
    return x.dims if len(op.results) == 1 else [x.dims] + [Dims([None] * len(one)) for one in op.results[1:]]


@register_rule("_weight_norm", "_weight_norm_interface")
def weight_norm(op: Op) -> Dims | list[Dims]:
    """A weight of given norms; its rows keep their labels, and what reads it pins its columns, as it is computed."""
    direction, norms = op.operands[:2]
    for axis, size in enumerate(norms.shape):
        if size == direction.shape[axis]:
            op.join(direction.dims[axis], norms.dims[axis])
    return direction.dims if len(op.results) == 1 else [direction.dims, norms.dims]


def kept_attributes(module: nn.Module) -> dict[str, Callable[[Any], int]]:
    """Whole numbers that a module of torch keeps beside its tensors, and how they follow from these once cut."""
    for kinds, table in _KEPT:
        if isinstance(module, kinds):
            return table
    return {}


def _first(*names: str) -> Callable[[Any], int]:
    def look(module: Any) -> int:
        found = next((getattr(module, name) for name in names if getattr(module, name, None) is not None), None)
        return -1 if found is None else found.shape[0]

    return look


_KEPT: tuple[tuple[Any, dict[str, Callable[[Any], int]]], ...] = (
    (
        nn.modules.conv._ConvTransposeNd,
        {"in_channels": lambda one: one.weight.shape[0], "out_channels": lambda one: one.weight.shape[1] * one.groups},
    ),
    (
        nn.modules.conv._ConvNd,
        {"in_channels": lambda one: one.weight.shape[1] * one.groups, "out_channels": lambda one: one.weight.shape[0]},
    ),
    (nn.Linear, {"in_features": lambda one: one.weight.shape[1], "out_features": lambda one: one.weight.shape[0]}),
    (nn.modules.batchnorm._NormBase, {"num_features": _first("running_mean", "weight")}),
    (nn.GroupNorm, {"num_channels": _first("weight")}),
    (nn.PReLU, {"num_parameters": lambda one: one.weight.numel()}),
    (
        nn.Embedding,
        {"num_embeddings": lambda one: one.weight.shape[0], "embedding_dim": lambda one: one.weight.shape[1]},
    ),
    (
        nn.RNNBase,
        {
            "input_size": lambda one: one.weight_ih_l0.shape[1],
            "hidden_size": lambda one: one.weight_hh_l0.shape[0] // _gates(one),
        },
    ),
)


def _gates(module: Any) -> int:
    return {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
