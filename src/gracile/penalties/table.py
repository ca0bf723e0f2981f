"""The room's table: a penalty is a file and a row here."""

from __future__ import annotations

from gracile.core.errors import InputError, pick
from gracile.penalties.base import GroupPenalty, Penalty
from gracile.penalties.group_l0 import GroupL0
from gracile.penalties.group_lasso import GroupLasso
from gracile.penalties.l0 import L0
from gracile.penalties.l1 import L1
from gracile.penalties.transformed_l1 import TransformedL1

ELEMENTWISE: dict[str, type[Penalty]] = {row.name: row for row in (L1, L0, TransformedL1)}
GROUPED: dict[str, type[GroupPenalty]] = {row.name: row for row in (GroupLasso, GroupL0)}
TABLE: dict[str, type[Penalty] | type[GroupPenalty]] = {**ELEMENTWISE, **GROUPED}


def elementwise(penalty: str | Penalty) -> Penalty:
    """A penalty on single weights, by name or as given.

    Raises:
        InputError: no such penalty, or one that acts on groups.
    """
    if isinstance(penalty, str):
        if penalty in GROUPED:
            raise _wrong_room(penalty, "groups", "RGSM", ELEMENTWISE)
        return pick(ELEMENTWISE, penalty, "penalty")()
    if isinstance(penalty, GroupPenalty) or not isinstance(penalty, Penalty):
        raise _wrong_room(type(penalty).__name__, "groups", "RGSM", ELEMENTWISE)
    return penalty


def grouped(penalty: str | GroupPenalty) -> GroupPenalty:
    """A penalty on groups, by name or as given.

    Raises:
        InputError: no such penalty, or one that acts on single weights.
    """
    if isinstance(penalty, str):
        if penalty in ELEMENTWISE:
            raise _wrong_room(penalty, "single weights", "RVSM", GROUPED)
        return pick(GROUPED, penalty, "penalty")()
    if not isinstance(penalty, GroupPenalty):
        raise _wrong_room(type(penalty).__name__, "single weights", "RVSM", GROUPED)
    return penalty


def _wrong_room(name: str, what: str, method: str, fitting: dict[str, type]) -> InputError:
    return InputError(
        f"The penalty '{name}' acts on {what}, which this method cannot use.",
        f"Use it with {method}, or choose one of: {', '.join(sorted(fitting))}.",
    )
