"""The kinds of recipe: one module and one row each.

A kind's module defines `Settings`, a `schema.Strict` model of what its recipes' ``[settings]`` may hold, and
``execute(settings, folder, published) -> Outcome``, which resumes from whatever an interrupted run left in the folder.
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

KINDS = {
    "conserved": "gracile.recipes.dynamics_conserved",
    "ff-random-layer": "gracile.recipes.ff_random_layer",
    "ff-sparsity": "gracile.recipes.ff_sparsity",
    "file-size": "gracile.recipes.file_size",
    "layerwise-redense": "gracile.recipes.layerwise_redense",
    "layerwise-rho": "gracile.recipes.layerwise_rho",
    "layerwise-workers": "gracile.recipes.layerwise_workers",
    "low-rank": "gracile.recipes.dynamics_low_rank",
    "one-layer": "gracile.recipes.one_layer",
    "study": "gracile.recipes.study",
    "train": "gracile.recipes.train",
    "tree": "gracile.recipes.dynamics_tree",
    "walk-rates": "gracile.recipes.walk_rates",
    "workers": "gracile.recipes.workers",
}


@dataclass(frozen=True)
class Outcome:
    """What a run found.

    Attributes:
        rows: the result table, one dictionary a row, columns in order of first appearance.
        values: named numbers that accept-criteria and results files speak of.
        plots: name to PNG, relative to the run folder.
        notes: sentences the reader needs: warnings, what did not hold.
    """

    rows: list[dict[str, Any]]
    values: dict[str, float]
    plots: dict[str, Path] = field(default_factory=dict)
    notes: Sequence[str] = ()


class Kind(Protocol):
    """A kind's module."""

    Settings: type[Strict]

    def execute(self, settings: Any, folder: RunFolder, published: list[dict[str, Any]]) -> Outcome:
        """Run, resuming from what the folder holds.

        Args:
            settings: an instance of the kind's `Settings`.
            folder: where everything goes.
            published: the recipe's published rows, possibly none, to be set beside ours.
        """
        ...


def kind(name: str) -> Kind:
    """Import a kind's module.

    Raises:
        InputError: no such kind.
    """
    return cast(Kind, importlib.import_module(pick(KINDS, name, "kind of recipe")))
