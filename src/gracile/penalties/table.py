"""The room's table: a penalty is a file and a row here."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from gracile.core.errors import InputError, nearest, pick
from gracile.penalties.base import Constraint, GroupPenalty, Penalty
from gracile.penalties.elastic_net import ElasticNet
from gracile.penalties.grid import Grid
from gracile.penalties.group_l0 import GroupL0
from gracile.penalties.group_lasso import GroupLasso
from gracile.penalties.l0 import L0
from gracile.penalties.l1 import L1
from gracile.penalties.l_half import LHalf
from gracile.penalties.mcp import MCP
from gracile.penalties.n_m import NM
from gracile.penalties.scad import SCAD
from gracile.penalties.sparse_group_lasso import SparseGroupLasso
from gracile.penalties.top_k import TopK
from gracile.penalties.transformed_l1 import TransformedL1

ELEMENTWISE: dict[str, type[Penalty]] = {row.name: row for row in (L1, L0, TransformedL1, MCP, SCAD, LHalf, ElasticNet)}
CONSTRAINTS: dict[str, type[Constraint]] = {row.name: row for row in (TopK, NM, Grid)}
GROUPED: dict[str, type[GroupPenalty]] = {row.name: row for row in (GroupLasso, GroupL0, SparseGroupLasso)}
TABLE: dict[str, type[Penalty] | type[Constraint] | type[GroupPenalty]] = {**ELEMENTWISE, **CONSTRAINTS, **GROUPED}

Row = TypeVar("Row")
Named = str | Mapping[str, Any]


def elementwise(penalty: Named | Penalty | Constraint) -> Penalty | Constraint:
    """A penalty on single weights or a constraint on their number, by name, by name and settings, or as given.

    Args:
        penalty: ``"mcp"``, ``{"name": "mcp", "gamma": 0.1}`` or an instance.

    Raises:
        InputError: no such penalty, one that acts on groups, or a setting it does not have.
    """
    if isinstance(penalty, (str, Mapping)):
        return _built(penalty, {**ELEMENTWISE, **CONSTRAINTS}, GROUPED, "groups", "RGSM")
    if hasattr(penalty, "scale"):
        raise _wrong_room(type(penalty).__name__, "groups", "RGSM", {**ELEMENTWISE, **CONSTRAINTS})
    _check_abilities(penalty, ("value", "prox"))
    return penalty


def grouped(penalty: Named | GroupPenalty) -> GroupPenalty:
    """A penalty on groups, by name, by name and settings, or as given.

    Args:
        penalty: ``"sparse_group_lasso"``, ``{"name": "sparse_group_lasso", "l1_ratio": 0.2}`` or an instance.

    Raises:
        InputError: no such penalty, one that acts on single weights, or a setting it does not have.
    """
    if isinstance(penalty, (str, Mapping)):
        return _built(penalty, GROUPED, {**ELEMENTWISE, **CONSTRAINTS}, "single weights", "RVSM")
    if not hasattr(penalty, "scale") and hasattr(penalty, "prox"):
        raise _wrong_room(type(penalty).__name__, "single weights", "RVSM", GROUPED)
    _check_abilities(penalty, ("value", "prox", "scale", "norm_values", "entrywise"))
    return penalty


def _check_abilities(penalty: object, needed: tuple[str, ...]) -> None:
    """Refuse a penalty of the user's own that lacks something, by name."""
    missing = [name for name in needed if not hasattr(penalty, name)]
    if missing:
        raise InputError(
            f"The penalty {type(penalty).__name__} has no {' and no '.join(missing)}.",
            "gracile.penalties.base says what a penalty needs.",
        )


def _built(asked: Named, fitting: Mapping[str, type[Row]], others: Mapping[str, type], what: str, method: str) -> Row:
    """The row asked for, with its settings."""
    settings = {} if isinstance(asked, str) else dict(asked)
    name = asked if isinstance(asked, str) else settings.pop("name", None)
    if not isinstance(name, str):
        raise InputError("The penalty's settings do not say which penalty.", 'Add its name, as name = "mcp".')
    if name in others:
        raise _wrong_room(name, what, method, fitting)
    row = pick(fitting, name, "penalty")
    known = list(inspect.signature(row).parameters)
    for key in settings:
        if key not in known:
            raise InputError(
                f"The penalty '{name}' has no setting '{key}'.", nearest(key, known) if known else "It has none."
            )
    return row(**settings)


def _wrong_room(name: str, what: str, method: str, fitting: Mapping[str, type]) -> InputError:
    return InputError(
        f"The penalty '{name}' acts on {what}, which this method cannot use.",
        f"Use it with {method}, or choose one of: {', '.join(sorted(fitting))}.",
    )
