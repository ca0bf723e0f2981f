"""Docstrings name one attribute a line, so that each can be found."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "src" / "gracile"
# Several names before the colon, or a second name with its own colon behind a sentence.
CROWDED = re.compile(r"\w+(, \w+)+:|\w+: .*[.;] \w+: ")


def attributes(text: str) -> Iterator[str]:
    """The lines under "Attributes:" that begin an entry."""
    for line in text.partition("\nAttributes:\n")[2].splitlines():
        if line and not line.startswith(" "):
            return
        if re.match(r"    \w", line):
            yield line.strip()


def test_one_attribute_a_line() -> None:
    found = [
        (f"{path.relative_to(SOURCES)}: {node.name}", line)
        for path in sorted(SOURCES.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        for line in attributes(ast.get_docstring(node) or "")
    ]
    assert len(found) > 800
    assert not [(where, line) for where, line in found if CROWDED.match(line)]


@pytest.mark.parametrize("line", ["steps, alpha: as for PGD.", "time: of the flow. records: along it."])
def test_the_search_knows_a_crowded_line(line: str) -> None:
    assert list(attributes(f"A thing.\n\nAttributes:\n    {line}\n\n>>> 1")) == [line]
    assert CROWDED.match(line)
