"""Tables of members: every row is told in the docs and in a command's help, and leads to what it names."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gracile.cli import main

DOCS = Path(__file__).parents[2] / "docs"

# Each table with the command whose help tells its rows; None for what is reached from Python alone.
TABLES: dict[str, str | None] = {
    "gracile.attacks.ENTRIES": "attack",
    "gracile.attacks.ATTACKS": None,
    "gracile.channels.grouping.WITHIN_LAYER": None,
    "gracile.cli.COMMANDS": "",
    "gracile.data.table.SOURCES": "run",
    "gracile.dynamics.MONITORS": None,
    "gracile.forward_forward.goodness.GOODNESS": None,
    "gracile.forward_forward.losses.LOSSES": None,
    "gracile.forward_forward.normalization.NORMALIZATIONS": None,
    "gracile.forward_forward.labels.LABELS": None,
    "gracile.layerwise.table.ESTIMATORS": None,
    "gracile.models.ACTIVATIONS": None,
    "gracile.models.MODELS": "run",
    "gracile.penalties.TABLE": None,
    "gracile.recipes.kinds.KINDS": None,
    "gracile.recipes.methods.METHODS": None,
    "gracile.recipes.methods.LEARNING_RULES": None,
    "gracile.tracking.TRACKERS": "run",
    "gracile.training.ADVERSARIES": None,
    "gracile.training.ROBUST_MONITORS": None,
    "gracile.training.optimizers.OPTIMIZERS": None,
    "gracile.walks.NOISES": "walk",
    "gracile.workers.COMPRESSORS": "workers",
    "gracile.workers.GRAPHS": "workers",
    "gracile.workers.METHODS": "workers",
    "gracile.workers.MIXINGS": "workers",
    "gracile.workers.SPLITS": "workers",
}
# Tables whose rows are not the things themselves: a command's row is its help, a kind's its module, see there.
BY_NAME = {"gracile.cli.COMMANDS", "gracile.recipes.kinds.KINDS"}
TOLD = {table: command for table, command in TABLES.items() if command is not None}


def rows(table: str) -> Mapping[str, Any]:
    module, _, name = table.rpartition(".")
    return getattr(importlib.import_module(module), name)


def missing(names: Mapping[str, Any], text: str) -> list[str]:
    """Names that are no whole word of a text."""
    return [name for name in names if not re.search(rf"(?<![\w-]){re.escape(str(name))}(?![\w-])", text)]


@pytest.mark.parametrize("table", TABLES)
def test_every_row_is_in_the_docs(table: str) -> None:
    text = "\n".join(page.read_text() for page in DOCS.rglob("*.md"))
    assert rows(table)
    assert not missing(rows(table), text)


@pytest.mark.parametrize("table", TOLD)
def test_every_row_is_in_a_commands_help(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*([TOLD[table]] if TOLD[table] else []), "--help"])
    assert not missing(rows(table), capsys.readouterr().out)


@pytest.mark.parametrize("table", [table for table in TABLES if table not in BY_NAME])
def test_a_row_leads_to_what_it_names(table: str) -> None:
    # A name in quotes is no definition that an editor could go to.
    assert not [name for name, row in rows(table).items() if isinstance(row, str)]


@pytest.mark.parametrize("name", sorted(rows("gracile.recipes.kinds.KINDS")))
def test_a_kind_names_a_module_of_its_own_name(name: str) -> None:
    module = importlib.import_module(rows("gracile.recipes.kinds.KINDS")[name])
    assert module.__name__ == f"gracile.recipes.kinds.{name.replace('-', '_')}"
    assert module.Settings.__module__ == module.__name__
    # Trained part by part, or run at one go.
    assert hasattr(module, "execute") != (hasattr(module, "train") and hasattr(module, "outcome"))
