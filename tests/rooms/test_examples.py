"""Every example runs as its docstring says, and is short enough to read."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# Libraries an example is about, and which are not among the product's own.
NEEDS = {"lightning": "lightning", "transformers": "transformers", "timm": "timm"}


def test_the_examples_are_found():
    assert len(EXAMPLES) >= 6


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_is_short(example: Path, tmp_path: Path):
    text = example.read_text("utf-8")
    assert len(text.splitlines()) <= 100
    assert f"python examples/{example.name}" in text
    for library in (name for name in NEEDS if f"import {name}" in text or f"from {name}" in text):
        if importlib.util.find_spec(NEEDS[library]) is None:
            pytest.skip(f"needs {library}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
