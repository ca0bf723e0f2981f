"""Rules of what works on every element alike: activations, sums, products, comparisons, dropout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from gracile.channels.op import Op
from gracile.channels.records import Dims, Values, Var
from gracile.channels.sizes import Labels
from gracile.channels.table import NAMED, register_rule

ACTIVATIONS = """relu relu6 leaky_relu elu selu celu gelu silu mish sigmoid tanh hardtanh hardswish hardsigmoid softplus softsign logsigmoid
log_sigmoid threshold hardshrink softshrink tanhshrink""".split()  # noqa: SIM905
FUNCTIONS = """abs exp exp2 expm1 log log2 log10 log1p square sqrt rsqrt neg reciprocal sign sgn pow sin cos tan asin acos atan sinh cosh
asinh acosh atanh erf erfc erfinv floor ceil round trunc frac clamp clamp_min clamp_max add sub rsub mul div rdiv rtruediv floor_divide
remainder fmod rpow maximum minimum fmax fmin atan2 hypot lerp addcmul addcdiv where xlogy logaddexp nan_to_num sinc float_power logit
lgamma digamma i0 polygamma bitwise_left_shift positive""".split()  # noqa: SIM905
COMPARISONS = """eq ne lt le gt ge isnan isinf isfinite logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not
bitwise_xor and or invert xor rand ror masked_fill isclose signbit""".split()  # noqa: SIM905


@register_rule(*ACTIVATIONS, *FUNCTIONS)
def pointwise(op: Op) -> Dims:
    """Every channel passes through; the operands' aligned channels are one."""
    dims = broadcast(op, op.operands, op.shape)
    op.constants(lambda inputs: probe(op, inputs))
    return dims


@register_rule(*COMPARISONS)
def comparison(op: Op) -> Dims:
    """As pointwise, but what a constant becomes is not known."""
    return broadcast(op, op.operands, op.shape)


def broadcast(op: Op, operands: Sequence[Var], shape: Sequence[int]) -> Dims:
    """Unite the operands' labels as broadcasting aligns their dimensions, counted from the last one."""
    made: list[Labels | None] = []
    for back in range(len(shape), 0, -1):
        size = shape[-back]
        there = [one for one in operands if len(one.shape) >= back]
        full = [one.dims[-back] for one in there if one.shape[-back] == size]
        joined = full[0] if full else None
        for labels in full[1:]:
            joined = op.join(joined, labels)
        made.append(joined)
    return Dims(made)


def probe(op: Op, inputs: Sequence[Values]) -> Values | None:
    """Run the operation on the constants themselves."""
    if not all(bool(values.known.any()) for values in inputs):
        return None  # such as the condition of `where`, which is compared from what varies
    tensors = []
    for values in inputs:
        tensors.append(torch.where(values.known, values.value, torch.zeros((), dtype=values.value.dtype)).clone())
    result = op.execute(tensors)
    if not isinstance(result, Tensor):
        return None
    known = inputs[0].known
    for values in inputs[1:]:
        known = known & values.known
    result = result.detach()
    if result.dim() != len(op.shape):
        return None
    return Values(result, known.expand(result.shape) & result.isfinite())


@register_rule(
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "feature_dropout", "contiguous", "to",
    "float", "double", "half", "bfloat16", "clone", "cpu", "cuda", "requires_grad", "native_dropout", "lift_fresh", "lift",
)  # fmt: skip
def identity(op: Op) -> Dims:
    """The input itself, as it is in evaluation."""
    op.constants(lambda inputs: inputs[0])
    return op.x.dims


@register_rule("detach", "conj", "resolve_conj", "resolve_neg", "real", "int", "long", "bool", "short", "byte")
def unknown_values(op: Op) -> Dims:
    """Every channel passes through, but what a constant becomes is not known."""
    return op.x.dims


@register_rule(
    "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "empty_like", "bernoulli", "rrelu", "fill", "zero", "uniform",
    "normal",
)  # fmt: skip
def like(op: Op) -> Dims:
    """A tensor shaped like another."""
    return broadcast(op, op.operands[:1], op.shape)


def elementwise(op: Op) -> Dims:
    """Every channel passes through, but what a constant becomes is not known.

    A module's class asks for this rule with ``channel_rule = "elementwise"``. It suits noise too, with one reservation: noise scaled by
    a standard deviation over all channels is another noise once channels are removed, so outputs agree with the noise switched off.
    """
    return op.x.dims


NAMED["elementwise"] = elementwise
# A function of each element by itself, alike in training and evaluation, so that it can be asked what a constant becomes.
NAMED["pointwise"] = pointwise


@register_rule("prelu", "_prelu_kernel")
def prelu(op: Op) -> Dims:
    """Each channel by itself, with a slope of its own where there are several."""
    x, slope = op.operands[:2]
    axis = 1 if len(x.shape) > 1 else 0
    if len(slope.shape) == 1 and slope.shape[0] > 1:
        op.join(x.dims[axis], slope.dims[0])

    def constants(inputs: Sequence[Values]) -> Values | None:
        values, slopes = inputs
        if slopes.value.numel() > 1:
            shape = [1] * len(x.shape)
            shape[axis] = -1
            slopes = Values(slopes.value.reshape(shape), slopes.known.reshape(shape))
        result = torch.where(values.value > 0, values.value, values.value * slopes.value)
        return Values(result, values.known & slopes.known)

    op.constants(constants)
    return x.dims


def normalize(op: Op) -> Dims:
    """An affine map of each channel by itself, with buffers `mean` and `std`.

    A module asks for it with ``channel_rule = "normalize"``.
    """
    module = op.module
    assert module is not None
    slots = op.x.slots
    if slots is None:
        return op.x.dims
    if cast(Tensor, module.mean).numel() > 1:
        op.tensor("mean", {0: slots.labels})
        op.tensor("std", {0: slots.labels})
    op.constants(lambda inputs: probe(op, inputs))
    return op.x.dims


NAMED["normalize"] = normalize


@register_rule("softmax", "log_softmax", "softmin", "cumsum", "cumprod", "sort", "argsort", "logcumsumexp", "normalize", "renorm", "roll",
               "cummax", "cummin")  # fmt: skip
def over_a_dimension(op: Op) -> list[Dims] | Dims:
    """What is computed over a dimension from all of its entries together holds its channels; the others pass through."""
    rank = len(op.x.shape)
    default = {"normalize": 1, "sort": -1, "argsort": -1}.get(op.key)
    position = {"normalize": 2, "roll": 2, "renorm": 2}.get(op.key, 1)
    given = op.argument(position, "dim", op.kwargs.get("dims", default))
    dims = list(op.x.dims)
    axes = range(rank) if given is None else given if isinstance(given, list | tuple) else [given]
    held = {int(one) % rank for one in axes}
    if op.key == "renorm":  # each slice along the dimension by the norm of all that is in it
        held = set(range(rank)) - held
    for axis in held:
        op.pin(dims[axis], f"{op.said} computes over all of it together")
    made = Dims(dims)
    return [made] * len(op.results) if len(op.results) > 1 else made
