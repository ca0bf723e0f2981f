"""What the documents say is run: Python blocks, doctests, and every command the README names."""

from __future__ import annotations

import doctest
import os
import pkgutil
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

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
    # In a block without a language they would escape the test below.
    fenced = [block for page in PAGES for block in re.findall(r"^```\n(.*?)^```", page.read_text(), flags=re.S | re.M)]
    assert not [block for block in fenced if re.search("^(gracile|torchrun) ", block, flags=re.M)]
    assert {shlex.split(command)[1] for command in commands()} <= {*cli.COMMANDS, "--help"}


# Commands of the documents, as they are run here: what is appended makes them small.
SMALL_RUN = ["--epochs", "2", "--set", "data.train_limit=200", "--set", "data.test_limit=60"]
SMALL = {
    "run": SMALL_RUN,
    "compress": ["--batch-sizes", "1", "--threads", "1", "--calibration", "32", "--robust-samples", "4"],
    "attack": ["--attacks", "fgsm,nattack", "--samples", "6", "--nattack-samples", "1", "--quick"],
    "workers": ["--rounds", "2", "--every", "1", "--train-limit", "300", "--patience", "60"],
    "walk": ["--steps", "200", "--walkers", "20"],
    "one-layer": ["--starts", "20", "--steps", "20"],
    "reproduce": ["--smoke", "--dry-run"],
}
# What a command of the documents asks much of, and what is asked of it here.
LARGE = {
    "--draws": ["--draws", "2"],
    "--processes": ["--processes", "2"],
    # Tries of every method at every budget, at which ten minutes would go.
    "opponents": ["--only", "dense:15", "--set", "data.train_limit=1000"],
    "opponents-weights": ["--only", "dense"],
    "from-trained": ["--only", "dense", "--set", "arms.trained.training.epochs=2", "--set", "data.train_limit=1000"],
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the documents' commands take for granted: photographs by class, a recipe, two runs of digits, a network."""
    folder, random = tmp_path_factory.mktemp("documents"), np.random.default_rng(0)
    for number, name in enumerate(("cats", "dogs")):
        (folder / "photos" / name).mkdir(parents=True)
        for image in range(30):
            pixels = random.integers(0, 128, (24, 24, 3)) + 100 * number
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "photos" / name / f"{image}.png")
    (folder / "my-recipe.toml").write_text(shipped()["digits"].read_text())
    (folder / "net.py").write_text(
        "from torch import nn\n\ndef make(num_classes=2):\n    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(),"
        " nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes))\n"
    )
    state = {
        "0.weight": torch.rand(6, 3, 3, 3),
        "0.bias": torch.zeros(6),
        "4.weight": torch.rand(2, 6),
        "4.bias": torch.zeros(2),
    }
    for name in ("w", "sparse"):
        save_file(state, folder / f"{name}.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for _ in range(2):
            assert cli.main(["run", "digits", *SMALL_RUN]) == 0
    return folder


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_every_command_of_the_documents_does_what_it_says(command: str, workplace: Path, monkeypatch, capsys):
    _, *words = shlex.split(command)
    monkeypatch.chdir(workplace)
    if "--int8" in words:
        pytest.importorskip("onnxruntime")
    # A list is as small as it can be, and a run that stands already is looked through, not trained anew.
    more = [] if words == ["reproduce"] or "--resume" in words else SMALL.get(words[0], [])
    if words[0] == "run" and "photos/" in words:
        more = ["--epochs", "2"]
    more = [*more, *(word for option, less in LARGE.items() if option in words for word in less)]
    status = cli.main([*words, *more])
    printed = capsys.readouterr()
    root = Path(os.environ.get("GRACILE_DATA") or "nowhere")
    at_hand = all((root / name).is_dir() for name in ("mnist", "cifar10"))
    if (
        not at_hand
        and status == 2
        and "Hugging Face" in printed.err
        and ("mnist" in printed.err or "cifar" in printed.err)
    ):
        pytest.skip("needs mnist or cifar10: set GRACILE_DATA to a folder with them; Hugging Face cannot be reached")
    assert status in (0, 1), printed.err
    assert printed.out.strip()


def test_the_readme_names_what_a_newcomer_needs_first():
    first = (ROOT / "README.md").read_text()[:1200]
    assert "make demo" in first
    assert "make test" in first
