"""Modules import one another in one direction, inside rooms too; names of the package are found without torch."""

from __future__ import annotations

import subprocess
import sys

import grimp


def circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules each of which reaches all others of its set, those of one module left out."""
    reached: dict[str, set[str]] = {}
    for start in imports:
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            for found in imports[ahead.pop()] - seen:
                seen.add(found)
                ahead.append(found)
        reached[start] = seen
    rings = {frozenset(other for other in reached[one] if one in reached[other]) for one in imports}
    return [set(ring) for ring in rings if len(ring) > 1]


def test_the_search_finds_a_circle() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == [{"b", "c"}]


def test_no_modules_import_one_another_in_a_circle() -> None:
    # Imports inside functions and those for type checking count: they only hide a circle.
    graph = grimp.build_graph("gracile", cache_dir=None)
    imports = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    assert len(imports) > 150
    assert not circles(imports)


def test_the_package_and_its_help_come_without_torch() -> None:
    heavy = ("torch", "numpy", "matplotlib", "pydantic", "sklearn")
    code = (
        "import sys, gracile, gracile.cli\n"
        "try:\n    gracile.cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"assert not set({heavy}) & set(sys.modules), 'heavy'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
