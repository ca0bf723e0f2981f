"""The pages on channels and shrinking say what happens: their examples are run."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from gracile.channels.table import RULES

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["channels.md", "shrink.md"])
def test_examples_run(page: str) -> None:
    before = dict(RULES)
    try:
        result = doctest.testfile(str(DOCS / page), module_relative=False)
    finally:
        RULES.clear()
        RULES.update(before)
    assert result.attempted > 5
    assert result.failed == 0
