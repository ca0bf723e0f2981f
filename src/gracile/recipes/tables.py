"""The tables of results: mean and spread over seeds, columns, and the published numbers beside ours."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gracile.core.errors import InputError

# Rows of a table; arm to its numbers, one table per seed.
Rows = list[dict[str, Any]]
Results = dict[str, Rows]


@dataclass(frozen=True)
class Column:
    """A number of every arm.

    Attributes:
        key: its name in the arms' results.
        title: over the column.
        digits: after the point.
        spread: whether the standard deviation over seeds stands beside the mean.
    """

    key: str
    title: str
    digits: int = 2
    spread: bool = True


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Mean and, of more than one value, sample standard deviation: ``93.10 ± 0.21``."""
    values = list(values)
    beside = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{beside}"


def mean(results: Iterable[Mapping[str, Any]], key: str) -> float:
    """Of one number over seeds."""
    return statistics.fmean(one[key] for one in results)


def whole(results: Sequence[Mapping[str, Any]], key: str) -> bool:
    """Whether every seed has this number: one that diverged has not."""
    return all(isinstance(one.get(key), (int, float)) for one in results)


def means(results: Results) -> dict[str, float]:
    """Every number that all seeds of an arm have, as ``arm.key``."""
    return {f"{arm}.{key}": mean(found, key) for arm, found in results.items() for key in found[0] if whole(found, key)}


def arm_rows(
    results: Results,
    columns: Sequence[Column],
    *,
    lead: Callable[[str], Mapping[str, Any]] = lambda arm: {},
    last: Callable[[str], Mapping[str, Any]] = lambda arm: {},
    missing: str = "",
) -> Rows:
    """A row an arm.

    Args:
        results: arm to its numbers, one table a seed.
        columns: in order; an arm whose results do not know one has no such cell.
        lead: what stands before the columns of an arm, after its name.
        last: what stands behind them, such as its `published_row`.
        missing: stands for a number that not every seed has.

    An arm of which a seed has ``collapsed`` says so in a last cell.
    """
    rows = []
    for arm, found in results.items():
        row: dict[str, Any] = {"arm": arm, **lead(arm)}
        for column in columns:
            if not any(column.key in one for one in found):
                continue
            if not whole(found, column.key):
                row[column.title] = missing
            elif column.spread:
                row[column.title] = spread((one[column.key] for one in found), column.digits)
            else:
                row[column.title] = f"{mean(found, column.key):.{column.digits}f}"
        rows.append({**row, **last(arm), **collapsed(found)})
    return rows


def collapsed(found: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The last cell of a row of which a seed has ``collapsed``; nothing where none has."""
    failed = dict.fromkeys(one["collapsed"] for one in found if one.get("collapsed"))
    return {"collapsed": ", ".join(failed)} if failed else {}


def published_row(arm: str, wanted: Sequence[str | float], published: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers of the published row that an arm answers to, as columns beside ours.

    Args:
        arm: its name.
        wanted: the leading cells of the row; none if it answers to none.
        published: the recipe's published rows.

    Raises:
        InputError: none, or several, begin so.
    """
    if not wanted:
        return {}
    found = [row for row in published if list(row.values())[: len(wanted)] == list(wanted)]
    if len(found) != 1:
        known = "; ".join(str(list(row.values())) for row in (found or published)[:8])
        raise InputError(
            f"The arm '{arm}' answers to the published row {list(wanted)}, and "
            f"{len(found) or ('none of the rows' if published else 'no row')} of the recipe's published table "
            f"{'begin' if len(found) > 1 else 'begins'} so.",
            f"Name the leading cells of one of: {known}." if known else "Name the table in the recipe's 'published'.",
        )
    return {f"published {key}": value for key, value in found[0].items() if isinstance(value, (int, float))}
