"""What the documents say is run: Python blocks, doctests, and every command the README names."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import shlex
from pathlib import Path

import pytest

import gracile
from gracile import cli
from gracile.recipes import shipped
from tests.peers import peer

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(gracile.__path__, "gracile.")
    if not module.name.endswith("__main__")
)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.S | re.M)


def test_the_pages_are_found():
    assert {"README.md", "architecture.md", "training.md", "data.md"} <= {page.name for page in PAGES}
    assert len(MODULES) > 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, block in enumerate(blocks(page, "python")):
        for needed in re.findall(r"gracile\.integrations\.(\w+)", block):
            peer({"lightning": "lightning.pytorch", "transformers": "transformers.trainer"}[needed])
        if block.lstrip().startswith(">>>"):
            example = doctest.DocTestParser().get_doctest(block, names, f"{page.name}, block {number + 1}", None, None)
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
            runner.run(example, clear_globs=False)
            assert runner.failures == 0
            names = example.globs
            continue
        exec(compile(block, f"{page.name}, block {number + 1}", "exec"), names)


@pytest.mark.parametrize("name", MODULES)
def test_doctests_hold(name: str):
    assert doctest.testmod(peer(name)).failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_project_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def commands() -> list[str]:
    lines = [line for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    return [line.partition("#")[0].strip() for line in lines if line.startswith("gracile ")]


def test_the_documents_name_commands():
    assert len(commands()) >= 5


@pytest.mark.parametrize("command", commands())
def test_every_command_the_documents_name_is_understood(command: str):
    import argparse

    _, name, *rest = shlex.split(command)
    if name.startswith("-"):
        return
    assert name in cli.COMMANDS
    module = importlib.import_module(f"gracile.commands.{name.replace('-', '_')}")
    parser = argparse.ArgumentParser(exit_on_error=False)
    module.configure(parser)
    args = parser.parse_args(rest)
    recipe = getattr(args, "recipe", None) or (getattr(args, "name", None) if name == "reproduce" else None)
    assert recipe is None or recipe in shipped() or recipe.endswith(".toml")


def test_the_readme_names_what_a_newcomer_needs_first():
    first = (ROOT / "README.md").read_text()[:1200]
    assert "make demo" in first
    assert "make test" in first
