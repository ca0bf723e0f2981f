"""The kinds of recipe: one module here and one row each.

A kind's module defines `Settings`, a `schema.Strict` model of what its recipes' ``[settings]`` may hold. Where those are
`gracile.recipes.arms.Parts`, independent of each other, the module trains one of them and sets the table of all (`ArmKind`
there); else it does everything at one go (`WholeKind`).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from gracile.core.errors import pick
from gracile.core.runs import RunFolder
from gracile.recipes.schema import Strict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Names, not modules: a recipe needs one kind, and each imports its own rooms and this one, so that all of them would make a
# start slow and a circle. A kind's module bears its name.
KINDS = {
    name: f"gracile.recipes.kinds.{name.replace('-', '_')}"
    for name in (
        "conserved", "ff-random-layer", "ff-sparsity", "file-size", "layerwise-redense", "layerwise-rho", "layerwise-workers",
        "low-rank", "one-layer", "perceptron", "train", "tree", "walk-rates", "workers",
    )
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a run found.

    Attributes:
        rows: the result table, one dictionary per row, columns in order of first appearance.
        values: named numbers that accept-criteria and results files speak of.
        plots: by name, figures, which the runner writes, or files inside the run's folder.
        notes: sentences the reader needs: warnings, what did not hold; empty ones are left out.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    plots: Mapping[str, Path | Figure] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Kind(Protocol):
    """A kind's module."""

    Settings: type[Strict]


class WholeKind(Kind, Protocol):
    """A kind that is run at one go."""

    def execute(self, settings: Any, folder: RunFolder) -> Outcome:
        """Run with the kind's `Settings`; minutes at most, so nothing is kept of an interrupted run but what `folder` records."""
        ...


def kind(name: str) -> Kind:
    """Import a kind's module.

    Raises:
        InputError: no such kind.
    """
    return cast(Kind, importlib.import_module(pick(KINDS, name, "kind of recipe")))
