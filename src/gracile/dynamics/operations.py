"""What an operation between two layers leaves of their invariance.

The conserved quantities come from a symmetry: multiply what a layer makes by g and what the next one reads by the
inverse of g, and the network computes the same. Linear operations that treat every channel alike commute with every
matrix g, positively homogeneous ones with positive diagonal g only, and all others with none.
"""

from __future__ import annotations

import enum
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn


class Between(enum.IntEnum):
    """What commutes with an operation, from most to least."""

    LINEAR = 0  # every matrix
    MASK = 1  # positive diagonals, and more where two units are switched alike: ReLU and its leaky kin
    DIAGONAL = 2  # positive diagonals
    NONE = 3


LINEAR = {
    nn.Identity, nn.Flatten, nn.Unflatten, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d,
    nn.ReplicationPad2d, nn.Upsample, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d,
    F.adaptive_avg_pool3d, F.interpolate, F.pad, torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze,
    torch.unsqueeze, torch.mean, torch.sum, torch.cat, torch.concat, torch.concatenate, torch.chunk, torch.split, torch.neg,
    operator.neg, operator.getitem, "flatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "mean", "sum",
    "chunk", "split", "neg", "contiguous", "clone", "expand", "expand_as",
}  # fmt: skip
MASKS = {nn.ReLU, nn.LeakyReLU, F.relu, F.relu_, torch.relu, torch.relu_, F.leaky_relu, F.leaky_relu_, "relu", "relu_"}
DIAGONAL = {
    nn.PReLU, nn.RReLU, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.max_pool1d, F.max_pool2d,
    F.max_pool3d, F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d, torch.abs, torch.amax, torch.amin,
    "abs", "amax", "amin",
}  # fmt: skip
NORMS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)  # fmt: skip
SUMS = {operator.add, operator.iadd, torch.add, operator.sub, operator.isub, torch.sub, "add", "add_", "sub", "sub_"}
PRODUCTS = {operator.mul, operator.imul, torch.mul, "mul", "mul_"}
QUOTIENTS = {operator.truediv, operator.itruediv, torch.div, "div", "div_"}


def key(node: fx.Node, module: nn.Module | None) -> Any:
    """What the tables above know an operation by: the module's type, the function, or the method's name."""
    return type(module) if module is not None else node.target


def title(node: fx.Node) -> str:
    """A node for a sentence: the module's path or the node's name, in quotes."""
    return f"'{node.target}'" if node.op == "call_module" else f"'{node.name}'"


def between(node: fx.Node, module: nn.Module | None) -> tuple[Between, str]:
    """What commutes with an operation on one tensor of channels, and, where nothing does, why.

    Returns:
        The kind, and a clause such as "batch-norm 'bn1' rescales its channels".
    """
    known = key(node, module)
    if known in LINEAR:
        return Between.LINEAR, ""
    if known in MASKS:
        return Between.MASK, ""
    if known in DIAGONAL:
        return Between.DIAGONAL, ""
    name = title(node)
    if isinstance(module, NORMS):
        what = "batch-norm" if "BatchNorm" in type(module).__name__ else type(module).__name__
        return Between.NONE, f"{what} {name} divides its channels by their own size"
    if known in ("detach",):
        return Between.NONE, f"{name} lets no gradient through"
    kind = type(module).__name__ if module is not None else getattr(node.target, "__name__", str(node.target))
    return Between.NONE, f"{name} ({kind}) is not positively homogeneous"
