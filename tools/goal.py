"""What the recipe `opponents` is after, over all of its networks and budgets: RGSM above the best opponent."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from gracile.recipes import schema
from gracile.recipes.kinds.train import Settings

RECIPE = "opponents"
# Where it stands.
FILE = "docs/comparison.md"
# Sizes that are no cells: one for confirming, one for tests.
OTHERS = ("full", "smoke")
COMPARISON = "over_best_"
# In points, the mean over networks and budgets; in its own standard errors, any cell.
ASKED_MEAN, ASKED_WORST = 0.3, -1.0


@dataclass(frozen=True)
class Cell:
    """One network at one budget.

    Attributes:
        network: as the page calls it.
        budget: percent of the multiply-adds.
        lead: accuracy of RGSM minus that of the best opponent in points, a mean over seeds; None if it is not run.
        error: its standard error, of the seeds' differences and of the test images.
    """

    network: str
    budget: int
    lead: float | None
    error: float | None

    @property
    def in_errors(self) -> float:
        """The lead in its standard errors; NaN where it is not known."""
        return math.nan if self.lead is None or not self.error else self.lead / self.error


def cells(recipe: schema.Recipe, results: Mapping[str, Mapping[str, Any]]) -> list[Cell]:
    """Every network at every budget, by network and falling budget.

    Args:
        recipe: with a size for each network, or for some of a network's budgets.
        results: ``result.json`` by size, of those that are run.
    """
    found = []
    for size in recipe.sizes:
        if size in OTHERS:
            continue
        settings = Settings(**schema.resized(recipe, size).settings)
        options = ", ".join(f"{key} {value}" for key, value in settings.model.options.items())
        network = settings.model.name + (f" ({options})" if options else "")
        values = results.get(size, {}).get("values", {})
        for name in settings.comparisons():
            if name.startswith(COMPARISON):
                budget = int(name.removeprefix(COMPARISON))
                found.append(Cell(network, budget, values.get(name), values.get(f"{name}.error")))
    networks = list(dict.fromkeys(cell.network for cell in found))
    return sorted(found, key=lambda cell: (networks.index(cell.network), -cell.budget))


def mean_lead(found: Sequence[Cell]) -> tuple[float, float]:
    """The mean lead over cells that are run, and its standard error at most.

    Cells of one network share their seeds and may err together, as they are taken to do; networks err each by itself.

    Args:
        found: one cell at least.

    >>> mean_lead([Cell("a", 50, 1.0, 0.3), Cell("a", 30, 0.0, 0.5), Cell("b", 50, 2.0, 0.6)])
    (1.0, 0.3333333333333333)
    """
    by_network: dict[str, float] = {}
    for cell in found:
        by_network[cell.network] = by_network.get(cell.network, 0.0) + (cell.error or 0.0)
    return statistics.fmean(cell.lead or 0.0 for cell in found), math.hypot(*by_network.values()) / len(found)


def goal(recipe: schema.Recipe, results: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of cells and what they come to, as Markdown; arguments as for `cells`."""
    every = cells(recipe, results)
    rows: dict[str, dict[str, str]] = {}
    for cell in every:
        row = rows.setdefault(cell.network, {"network": cell.network})
        row[f"{cell.budget} %"] = "not run" if cell.lead is None else f"{cell.lead:+.2f} ± {cell.error or math.nan:.2f}"
    table = tabulate(list(rows.values()), headers="keys", tablefmt="github")
    known = [cell for cell in every if cell.lead is not None]
    if not known:
        return f"{table}\n\nNone of the {len(every)} cells is run."
    mean, error = mean_lead(known)
    worst = min(known, key=lambda cell: cell.in_errors)
    return (
        f"{table}\n\nMean over {len(known)} of {len(every)} cells{'' if len(known) == len(every) else ', the others not being run'}: "
        f"{mean:+.2f} ± {error:.2f} points, of {ASKED_MEAN:+g} asked. The worst, {worst.network} at {worst.budget} %, is at "
        f"{worst.in_errors:+.1f} of its standard errors, of {ASKED_WORST:+g} asked at least."
    )
