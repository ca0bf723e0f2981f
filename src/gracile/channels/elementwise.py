"""Rules of what works on every element alike: activations, sums, products, dropout."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gracile.channels.op import Op, Slots, Traced, Values
from gracile.channels.table import NAMED, register_rule

ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Sigmoid,
    nn.Tanh,
    nn.Hardtanh,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Softplus,
    nn.Softsign,
    nn.LogSigmoid,
    nn.Threshold,
    nn.Hardshrink,
    nn.Softshrink,
    nn.Tanhshrink,
)
FUNCTIONS = (
    F.relu,
    F.relu_,
    torch.relu,
    torch.relu_,
    F.relu6,
    F.leaky_relu,
    F.elu,
    F.selu,
    F.gelu,
    F.silu,
    F.mish,
    F.sigmoid,
    torch.sigmoid,
    F.tanh,
    torch.tanh,
    F.hardtanh,
    F.hardswish,
    F.hardsigmoid,
    F.softplus,
    F.softsign,
    F.logsigmoid,
    torch.abs,
    torch.exp,
    torch.clamp,
    torch.square,
    torch.sqrt,
    torch.neg,
    operator.neg,
    torch.pow,
    operator.pow,
    operator.add,
    operator.iadd,
    torch.add,
    operator.sub,
    operator.isub,
    torch.sub,
    operator.mul,
    operator.imul,
    torch.mul,
    operator.truediv,
    operator.itruediv,
    torch.div,
    torch.maximum,
    torch.minimum,
)
METHODS = (
    "relu",
    "relu_",
    "sigmoid",
    "sigmoid_",
    "tanh",
    "tanh_",
    "abs",
    "exp",
    "clamp",
    "clamp_",
    "square",
    "sqrt",
    "neg",
    "pow",
    "contiguous",
    "to",
    "float",
    "double",
    "clone",
    "detach",
    "add",
    "add_",
    "sub",
    "sub_",
    "mul",
    "mul_",
    "div",
    "div_",
)


@register_rule(*ACTIVATIONS, *FUNCTIONS, *METHODS)
def elementwise(op: Op) -> Slots:
    """Every channel passes through; the operands' aligned channels are one."""
    slots = broadcast(op, op.operands)
    op.constants(lambda inputs: probe(op, slots, inputs))
    return slots


def broadcast(op: Op, operands: Sequence[Traced]) -> Slots:
    """Unite the operands' channels as broadcasting aligns them (dimensions counted from the last one)."""
    carriers = [operand for operand in operands if operand.slots is not None]
    unlabelled = [operand for operand in operands if operand.slots is None and any(size > 1 for size in operand.shape)]
    if unlabelled or not carriers:
        op.refuse(
            f"an operand of shape {(unlabelled or operands)[0].shape} has no known channels.",
            "Make it a buffer with one dimension larger than 1, or put the operation into a module with a rule.",
        )
    rank = max(len(operand.shape) for operand in operands)
    axes = {rank - len(one.shape) + one.channels.axis for one in carriers if len(one.channels.labels) > 1}
    if len(axes) > 1:
        op.refuse(
            f"its operands' channels lie along different dimensions {sorted(axes)}.", "Permute one of them first."
        )
    widest = max(carriers, key=lambda one: len(one.channels.labels))
    labels = widest.channels.labels
    axis = rank - len(widest.shape) + widest.channels.axis
    for one in carriers:
        if one is widest:
            continue
        if len(one.channels.labels) == len(labels):
            op.unite(labels, one.channels.labels)
        else:
            op.pin(one.channels.labels, f"it is spread over all channels at '{op.name}'")
    return Slots(axis, labels)


def probe(op: Op, slots: Slots, inputs: Sequence[Values]) -> Values | None:
    """Run the operation on the constants themselves; one whose result differs over space or batch is none."""
    tensors, known = [], torch.ones(len(slots.labels), dtype=torch.bool, device=inputs[0].known.device)
    for operand, values in zip(op.operands, inputs, strict=True):
        shape = [1] * len(operand.shape)
        if operand.slots is not None:
            shape[operand.slots.axis] = len(operand.slots.labels)
        known = known & values.known
        tensors.append(torch.where(values.known, values.value, 0).clone().reshape(shape))
    result = op.execute(tensors)
    if result.numel() != known.numel():
        return None
    return Values(result.detach().reshape(-1), known & result.detach().reshape(-1).isfinite())


DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


@register_rule(nn.Identity, *DROPOUT, F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)
def identity(op: Op) -> Slots:
    """The input itself, as it is in evaluation."""
    op.constants(lambda inputs: inputs[0])
    return op.x.channels


@register_rule(nn.RReLU)
def independent(op: Op) -> Slots:
    """Every channel passes through, but what a constant becomes is not known.

    A module's class asks for this rule with ``channel_rule = "elementwise"``. It suits noise too, with one
    reservation: noise scaled by
    a standard deviation over all channels is another noise once channels are removed, so outputs agree with the noise
    switched off.
    """
    return op.x.channels


NAMED["elementwise"] = independent


# A module's class asks for the rule of activations with ``channel_rule = "activation"``: a function of each element by itself, alike
# in training and evaluation.
NAMED["activation"] = elementwise


@register_rule(nn.PReLU)
def prelu(op: Op) -> Slots:
    """Each channel by itself, with a slope of its own where there are several."""
    module = cast(nn.PReLU, op.module)
    slots = op.x.channels
    if module.weight.numel() > 1:
        op.tensor("weight", {0: slots.labels})
        op.size("num_parameters", slots.labels)
    op.constants(lambda inputs: probe(op, slots, inputs))
    return slots


def normalize(op: Op) -> Slots:
    """An affine map of each channel by itself, with buffers `mean` and `std`; asked for with ``channel_rule =
    "normalize"``."""
    module = op.module
    assert module is not None
    slots = op.x.channels
    if cast(Tensor, module.mean).numel() > 1:
        op.tensor("mean", {0: slots.labels})
        op.tensor("std", {0: slots.labels})
    op.constants(lambda inputs: probe(op, slots, inputs))
    return slots


NAMED["normalize"] = normalize


@register_rule(torch.std, torch.var, torch.std_mean, torch.var_mean, "std", "var")
def shared_statistic(op: Op) -> Slots:
    """Refused: a deviation over channels changes when one is removed."""
    return op.refuse(
        "a standard deviation taken over all channels changes when one is removed, so removal cannot be exact.",
        "Put it into a module whose class says channel_rule = 'elementwise'; outputs then agree while it is off.",
    )


@register_rule(
    nn.Softmax, nn.LogSoftmax, F.softmax, F.log_softmax, torch.softmax, torch.log_softmax, "softmax", "log_softmax"
)
def softmax(op: Op) -> Slots:
    """Over channels it keeps all of them; beside them each passes through."""
    slots = op.x.channels
    dim = getattr(op.module, "dim", None) if op.module is not None else op.argument(1, "dim")
    if dim is None or dim % len(op.x.shape) == slots.axis:
        op.pin(slots.labels, f"'{op.name}' normalises all channels together")
    return slots
