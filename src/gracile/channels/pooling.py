"""Rules of what many positions or channels become one in: pooling and reductions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gracile.channels.elementwise import broadcast
from gracile.channels.op import Op
from gracile.channels.records import Dims, Values, Var
from gracile.channels.table import register_rule

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
