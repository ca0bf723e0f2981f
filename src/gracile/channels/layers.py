"""Rules of the layers with weights: convolutions, linear layers, normalisations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from gracile.channels.op import Op, Slots, Values
from gracile.channels.table import NAMED, register_rule


@register_rule(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def convolution(op: Op) -> Slots:
    """Reads its input channels and makes new ones; a grouped one passes each group on as one channel."""
    module = cast(nn.Conv2d, op.module)
    slots = _channels_first(op, module.weight.dim())
    made = _grouped(op, slots) if module.groups > 1 else op.fresh(module.out_channels)
    whole = module.groups > 1
    op.tensor("weight", {0: made} if whole else {0: made, 1: slots.labels})
    op.tensor("bias", {0: made})
    op.size("in_channels", slots.labels)
    op.size("out_channels", made)
    pads = module.padding if isinstance(module.padding, str) else any(module.padding)
    bordered = module.padding_mode == "zeros" and pads not in (False, "valid")
    assert op.shape is not None
    op.reads(
        outputs=(0, made),
        inputs=None if whole else (1, slots.labels),
        positions=math.prod(op.shape[2:]),
        folds=not bordered,
    )
    op.constants(lambda inputs: _affine(module, inputs, bordered, module.groups))
    return Slots(1, made)


def _grouped(op: Op, slots: Slots) -> np.ndarray:
    """All channels a group reads and makes are one, so that groups are kept or removed whole."""
    module = cast(nn.Conv2d, op.module)
    members = slots.labels.reshape(module.groups, -1)
    op.unite(np.broadcast_to(members[:, :1], members.shape), members)
    op.size("groups", members[:, 0])
    return np.repeat(members[:, 0], module.out_channels // module.groups)


@register_rule(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
def transposed_convolution(op: Op) -> Slots:
    """As a convolution, with the weight's first two dimensions exchanged."""
    module = cast(nn.ConvTranspose2d, op.module)
    if module.groups > 1:
        op.refuse(
            "grouped transposed convolutions have no rule.", "Split it into one module a group, or register a rule."
        )
    slots = _channels_first(op, module.weight.dim())
    made = op.fresh(module.out_channels)
    op.tensor("weight", {0: slots.labels, 1: made})
    op.tensor("bias", {0: made})
    op.size("in_channels", slots.labels)
    op.size("out_channels", made)
    op.reads(outputs=(1, made), inputs=(0, slots.labels), positions=math.prod(op.x.shape[2:]), folds=False)
    op.constants(lambda inputs: _affine(module, inputs, True, 1))
    return Slots(1, made)


@register_rule(nn.Linear)
def linear(op: Op) -> Slots:
    """Reads the features along the last dimension and makes new ones."""
    module = cast(nn.Linear, op.module)
    slots, last = op.x.channels, len(op.x.shape) - 1
    if slots.axis != last:
        op.refuse(
            f"it reads dimension {last} of shape {op.x.shape}, whose channels lie along dimension {slots.axis}.",
            "Flatten or permute, so that the channels come last.",
        )
    made = op.fresh(module.out_features)
    op.tensor("weight", {0: made, 1: slots.labels})
    op.tensor("bias", {0: made})
    op.size("in_features", slots.labels)
    op.size("out_features", made)
    op.reads(outputs=(0, made), inputs=(1, slots.labels), positions=math.prod(op.x.shape[1:-1]), folds=True)
    op.constants(lambda inputs: _affine(module, inputs, False, 1))
    return Slots(last, made)


def _affine(module: nn.Module, inputs: Sequence[Values], bordered: bool, groups: int) -> Values:
    """Rows that see nothing but constants: bias plus the weighted constants, where zero padding leaves those
    uniform."""
    weight, bias = cast(Tensor, module.weight), cast(Tensor | None, module.bias)
    with torch.no_grad():
        weight = weight.detach()
        if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            weight = weight.transpose(0, 1)
        number = weight.shape[0]
        weight = weight.reshape(groups, number // groups, weight.shape[1], -1)
        value = inputs[0].value.reshape(groups, 1, -1)
        known = inputs[0].known.reshape(groups, 1, -1)
        if bordered:
            known = known & (value == 0)
        read = (weight != 0).any(-1)
        constant = ~(read & ~known).any(-1)
        total = torch.where(known, weight.sum(-1) * value, 0).sum(-1)
        total = total.reshape(-1) if bias is None else total.reshape(-1) + bias.detach()
    return Values(total, constant.reshape(-1))


def _channels_first(op: Op, dimensions: int) -> Slots:
    slots = op.x.channels
    if len(op.x.shape) != dimensions or slots.axis != 1:
        op.refuse(
            f"it reads dimension 1 of a batch, but was given shape {op.x.shape} with channels along {slots.axis}.",
            "Pass an example with a batch dimension, channels second.",
        )
    return slots


@register_rule(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
def batch_norm(op: Op) -> Slots:
    """Each channel by itself."""
    return _batch_norm(op, "running_var", lambda variance, eps: torch.rsqrt(variance + eps))


def l1_batch_norm(op: Op) -> Slots:
    """As batch-norm, with a running mean absolute deviation; asked for with ``channel_rule = "l1_batch_norm"``."""
    return _batch_norm(op, "running_dev", lambda deviation, eps: 1 / (deviation + eps))


NAMED["l1_batch_norm"] = l1_batch_norm


def _batch_norm(op: Op, spread: str, scale: Callable[[Tensor, float], Tensor]) -> Slots:
    """A normalisation of each channel by running statistics; `scale` makes a factor of the buffer named `spread`."""
    module = cast(nn.BatchNorm2d, op.module)
    slots = _axis_one(op)
    for name in ("weight", "bias", "running_mean", spread):
        op.tensor(name, {0: slots.labels})
    op.size("num_features", slots.labels)

    def constants(inputs: Sequence[Values]) -> Values:
        with torch.no_grad():
            value = inputs[0].value
            found = getattr(module, spread)
            if module.running_mean is None or found is None:
                value = torch.zeros_like(value)  # batch statistics take a constant to zero
            else:
                value = (value - module.running_mean) * scale(found, module.eps)
            if module.weight is not None:
                value = value * module.weight.detach() + module.bias.detach()
        return Values(value, inputs[0].known)

    op.constants(constants)
    return slots


@register_rule(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
def instance_norm(op: Op) -> Slots:
    """Each channel by itself."""
    slots = _axis_one(op)
    for name in ("weight", "bias", "running_mean", "running_var"):
        op.tensor(name, {0: slots.labels})
    op.size("num_features", slots.labels)
    return slots


@register_rule(nn.GroupNorm)
def group_norm(op: Op) -> Slots:
    """The channels of a group share their statistics: a group goes whole, and a single group cannot go."""
    module = cast(nn.GroupNorm, op.module)
    slots = _axis_one(op)
    for name in ("weight", "bias"):
        op.tensor(name, {0: slots.labels})
    op.size("num_channels", slots.labels)
    members = slots.labels.reshape(module.num_groups, -1)
    if module.num_groups == 1:
        op.pin(slots.labels, f"'{op.name}' normalises all channels by one statistic")
    else:
        op.unite(np.broadcast_to(members[:, :1], members.shape), members)
        op.size("num_groups", members[:, 0])
    return slots


@register_rule(nn.LayerNorm)
def layer_norm(op: Op) -> Slots:
    """Channels that are normalised together cannot go; channels beside the normalised dimensions pass through."""
    module = cast(nn.LayerNorm, op.module)
    slots = op.x.channels
    if slots.axis >= len(op.x.shape) - len(module.normalized_shape):
        op.pin(slots.labels, f"'{op.name}' normalises all channels by one statistic")
    return slots


def _axis_one(op: Op) -> Slots:
    if op.x.channels.axis != 1:
        op.refuse(f"its channels are dimension 1, but lie along {op.x.channels.axis}.", "Permute before it.")
    return op.x.channels
