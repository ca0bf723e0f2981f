"""The kinds of recipe: one module here and one row each.

A kind's module defines `Settings`, a `schema.Strict` model of what its recipes' ``[settings]`` may hold. Where those are
`gracile.recipes.arms.Parts`, independent of each other, the module trains one of them and sets the table of all (`ArmKind`
there); else it does everything at one go (`WholeKind`).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from gracile.core.errors import pick
from gracile.core.runs import RunFolder
from gracile.recipes.schema import Strict

# Names, not modules: a recipe needs one kind, and each imports its own rooms and this one, so that all of them would make a
# start slow and a circle. A kind's module bears its name.
KINDS = {
    name: f"gracile.recipes.kinds.{name.replace('-', '_')}"
    for name in (
        "conserved",
        "ff-random-layer",
        "ff-sparsity",
        "file-size",
        "layerwise-redense",
        "layerwise-rho",
        "layerwise-workers",
        "low-rank",
        "one-layer",
        "study",
        "train",
        "tree",
        "walk-rates",
        "workers",
    )
}


@dataclass(frozen=True)
class Outcome:
    """What a run found.

    Attributes:
        rows: the result table, one dictionary a row, columns in order of first appearance.
        values: named numbers that accept-criteria and results files speak of.
        plots: name to file, inside the run's folder; relative to it once the run has ended.
        notes: sentences the reader needs: warnings, what did not hold.
    """

    rows: list[dict[str, Any]]
    values: dict[str, float]
    plots: dict[str, Path] = field(default_factory=dict)
    notes: Sequence[str] = ()


class Kind(Protocol):
    """A kind's module."""

    Settings: type[Strict]


class WholeKind(Kind, Protocol):
    """A kind that is run at one go."""

    def execute(self, settings: Any, folder: RunFolder) -> Outcome:
        """Run; minutes at most, so nothing is kept of an interrupted run.

        Args:
            settings: an instance of the kind's `Settings`.
            folder: where everything goes.
        """
        ...


def kind(name: str) -> Kind:
    """Import a kind's module.

    Raises:
        InputError: no such kind.
    """
    return cast(Kind, importlib.import_module(pick(KINDS, name, "kind of recipe")))
