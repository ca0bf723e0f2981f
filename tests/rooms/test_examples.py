"""Every example runs as its docstring says, and is short enough to read; the tour is a notebook that runs."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path

import matplotlib as mpl
import pytest

from gracile.data import load
from tests.peers import script

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
TOUR = ROOT / "docs" / "tour.ipynb"
# Libraries an example may be about, and which are not among the product's own; ONNX comes with an extra.
NEEDS = {"lightning": ["lightning"], "transformers": ["transformers", "accelerate"], "timm": ["timm", "torchvision"]}
EXPORT = ["onnx", "onnxruntime", "onnxscript"]
# What makes an example a matter of seconds, where it is not as it stands.
SMALL = {
    "text_classifier": ["--epochs", "1", "--sentences", "60", "--width", "32", "--layers", "1"],
    "timm_half_as_large": ["test_vit", "--size", "16", "--epochs", "1", "--samples", "96"],
}


def missing(*packages: str) -> list[str]:
    return [package for package in packages if importlib.util.find_spec(package) is None]


def test_the_ten_examples_are_found_and_on_their_page():
    assert len(EXAMPLES) >= 10
    page = (ROOT / "docs" / "examples.md").read_text("utf-8")
    assert set(re.findall(r"literalinclude} \.\./examples/(\w+)\.py", page)) == {path.stem for path in EXAMPLES}
    assert {path.stem for path in EXAMPLES} >= set(SMALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_is_short(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    text = example.read_text("utf-8")
    assert len(text.splitlines()) <= 100
    assert f"python examples/{example.name}" in text
    needed = [one for name, more in NEEDS.items() if re.search(rf"^(import|from) {name}\b", text, re.M) for one in more]
    needed += EXPORT if re.search(r"export_onnx|gracile\.compress", text) else []
    if lacking := missing(*needed):
        pytest.skip(f"needs {', '.join(lacking)}")
    words = SMALL.get(example.stem, [])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("gracile.data.load", partial(load, train_limit=400, test_limit=100))
    if "processes" in example.stem:
        # Its processes import the script that began them.
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
        command = [sys.executable, "-m", "tests.peers", str(example), *words]
        said = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout
    else:
        monkeypatch.setattr(sys, "argv", sys.argv)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            script(str(example), *words)
        said = capsys.readouterr().out
    assert said.strip()


def cells() -> list[dict]:
    return json.loads(TOUR.read_text("utf-8"))["cells"]


def test_the_tour_keeps_no_outputs():
    """They come from the build of the site, which runs it."""
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    assert len(code) >= 5
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)


def test_the_tours_cells_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if lacking := missing(*EXPORT):
        pytest.skip(f"needs {', '.join(lacking)}")
    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for cell in cells():
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"tour.ipynb, cell {cell['id']}", "exec"), names)


def test_the_tours_links_lead_somewhere():
    for cell in cells():
        for target in re.findall(r"\]\(([^)#:]+)\)", "".join(cell["source"])):
            assert (TOUR.parent / target).exists(), target
