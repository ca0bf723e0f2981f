"""The tables of results: mean and spread over seeds, columns, and the published numbers beside ours."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gracile.core.errors import InputError

# Rows of a table; arm to its numbers, one table per seed.
Rows = list[dict[str, Any]]
Results = dict[str, Rows]
Seeds = Sequence[Mapping[str, Any]]


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


def standard_error(values: Sequence[float]) -> float | None:
    """Of their mean; None of a single one."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def with_error(name: str, values: Sequence[float], samples: float = 0.0) -> dict[str, float]:
    """A mean under its name and, of more than one value, its standard error as ``NAME.error``, which criteria ask for.

    Args:
        name: of the mean.
        values: one a seed.
        samples: the standard error that the test samples give the mean for their part, added in quadrature.
    """
    error = standard_error(values)
    return {name: statistics.fmean(values), **({} if error is None else {f"{name}.error": math.hypot(error, samples)})}


def sampling_error(ours: Seeds, theirs: Seeds) -> float:
    """Standard error in points that the choice of test samples gives a mean difference of two arms' accuracies.

    Of each sample the mean over seeds counts, ``+1`` where only the one arm has it right; 0 where the arms' answers were not kept.

    Args:
        ours: one table a seed, with the digit of each sample under ``right``, 1 for a right answer.
        theirs: the same of the other arm, on the same samples.
    """
    if not all(one.get("right") for one in (*ours, *theirs)):
        return 0.0
    one, two = (np.array([[int(digit) for digit in seed["right"]] for seed in arm]).mean(0) for arm in (ours, theirs))
    return 100 * float(np.std(one - two, ddof=1)) / len(one) ** 0.5


def digits(right: Iterable[bool]) -> str:
    """A digit a sample, 1 for a right answer: how a part keeps which samples it has right."""
    return "".join(str(int(one)) for one in right)


def whole(results: Sequence[Mapping[str, Any]], key: str) -> bool:
    """Whether every seed has this number: one that diverged has not."""
    return all(isinstance(one.get(key), (int, float)) for one in results)


def means(results: Results) -> dict[str, float]:
    """Every number that all seeds of an arm have, as ``arm.key``, with its standard error over seeds as ``arm.key.error``."""
    values: dict[str, float] = {}
    for arm, found in results.items():
        for key in found[0]:
            if whole(found, key):
                values |= with_error(f"{arm}.{key}", [one[key] for one in found])
    return values


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
