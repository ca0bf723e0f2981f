"""What each class of the test split is taken for: accuracy by class, and a confusion matrix an arm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gracile.report import charts, drawing, html
from gracile.report.reading import Arm

# Classes up to which a confusion matrix can be read.
MOST = 60
# Classes that a table shows at once.
SHOWN = 20


def answered(named: charts.Named) -> str:
    """A table of the share of each class that is right, a column an arm, and the confusion matrices."""
    found = [
        (name, counts, classes) for name, arm, _ in named if (counts := _counts(arm)) for classes in [_classes(arm)]
    ]
    if not found:
        return ""
    classes = found[0][2]
    rows = [_row(classes, index, found) for index in range(len(classes))]
    hard = "" if len(rows) <= SHOWN else f"The {SHOWN} classes that are hardest for {found[0][0]} come first. "
    if hard:
        rows.sort(key=lambda row: float(row[f"{found[0][0]} %"] or 0))
    table = html.table(rows[:SHOWN], "Accuracy by class")
    rest = (
        html.details(f"{len(rows) - SHOWN} more classes", html.table(rows[SHOWN:], "Accuracy by class, the rest"))
        if hard
        else ""
    )
    told = html.paragraph(f"{hard}Percent of a class's test samples that are right, first seed.", soft=True)
    figures = [
        html.figure(
            drawing.confusion(
                f"Confusion of {name}", counts, own, "Rows are what a sample is, columns what it is taken for."
            )
        )
        for name, counts, own in found
        if len(own) <= MOST
    ]
    return table + rest + told + html.charts(*figures)


def _row(classes: Sequence[str], index: int, found: Sequence[tuple[str, list[list[int]], list[str]]]) -> dict[str, Any]:
    row: dict[str, Any] = {"class": classes[index], "samples": sum(found[0][1][index])}
    for name, counts, _ in found:
        total = sum(counts[index])
        row[f"{name} %"] = f"{100 * counts[index][index] / total:.1f}" if total else ""
    return row


def _counts(arm: Arm) -> list[list[int]]:
    """The confusion of the first seed that has one, whole: rows are what a sample is."""
    found = next((one.answers for one in arm.trained if one.answers is not None), None)
    if found is None:
        return []
    taken = found.get("confusion", {})
    return [[taken.get(name, {}).get(other, 0) for other in found["classes"]] for name in found["classes"]]


def _classes(arm: Arm) -> list[str]:
    return next(one.answers["classes"] for one in arm.trained if one.answers is not None)
