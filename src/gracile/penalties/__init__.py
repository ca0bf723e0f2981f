"""Penalties with exact proximal maps; one file and one row of `TABLE` each."""

from gracile.penalties.base import Constraint, GroupPenalty, Penalty, soft_threshold
from gracile.penalties.elastic_net import ElasticNet
from gracile.penalties.grid import Grid, nearest_on_grid
from gracile.penalties.group_l0 import GroupL0, group_hard_scale
from gracile.penalties.group_lasso import GroupLasso, group_soft_scale
from gracile.penalties.l0 import L0, hard_threshold
from gracile.penalties.l1 import L1
from gracile.penalties.l_half import LHalf, half_threshold
from gracile.penalties.mcp import MCP, firm_threshold
from gracile.penalties.n_m import NM
from gracile.penalties.scad import SCAD, scad_threshold
from gracile.penalties.sparse_group_lasso import SparseGroupLasso
from gracile.penalties.table import TABLE, elementwise, grouped
from gracile.penalties.top_k import TopK, keep_largest, largest
from gracile.penalties.transformed_l1 import TransformedL1, transformed_threshold

__all__ = [
    "L0",
    "L1",
    "MCP",
    "NM",
    "SCAD",
    "TABLE",
    "Constraint",
    "ElasticNet",
    "Grid",
    "GroupL0",
    "GroupLasso",
    "GroupPenalty",
    "LHalf",
    "Penalty",
    "SparseGroupLasso",
    "TopK",
    "TransformedL1",
    "elementwise",
    "firm_threshold",
    "group_hard_scale",
    "group_soft_scale",
    "grouped",
    "half_threshold",
    "hard_threshold",
    "keep_largest",
    "largest",
    "nearest_on_grid",
    "scad_threshold",
    "soft_threshold",
    "transformed_threshold",
]
