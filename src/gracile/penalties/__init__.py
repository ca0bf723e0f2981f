"""Penalties with exact proximal maps; one file and one row of `TABLE` each."""

from gracile.penalties.base import GroupPenalty, Penalty
from gracile.penalties.group_l0 import GroupL0, group_hard_scale
from gracile.penalties.group_lasso import GroupLasso, group_soft_scale
from gracile.penalties.l0 import L0, hard_threshold
from gracile.penalties.l1 import L1, soft_threshold
from gracile.penalties.table import TABLE, elementwise, grouped
from gracile.penalties.transformed_l1 import TransformedL1, transformed_threshold

__all__ = [
    "L0",
    "L1",
    "TABLE",
    "GroupL0",
    "GroupLasso",
    "GroupPenalty",
    "Penalty",
    "TransformedL1",
    "elementwise",
    "group_hard_scale",
    "group_soft_scale",
    "grouped",
    "hard_threshold",
    "soft_threshold",
    "transformed_threshold",
]
