"""What a package holds: everything of the library, and nothing else."""

from __future__ import annotations

import re
import subprocess
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def kept(*places: str) -> set[str]:
    """Files of the checkout that git keeps, or would."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", *places]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if found.returncode:
        pytest.skip("needs a git checkout, to know which files are the project's")
    return {name for name in found.stdout.decode().split("\0") if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("dist")))))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert files == {name.removeprefix("src/") for name in kept("src/gracile")}
    assert {"gracile/py.typed", "gracile/report/style.css", "gracile/recipes/papers/published.toml"} <= files
    assert {Path(name).suffix for name in files} <= {".py", ".toml", ".json", ".css", ".html", ".typed"}
    assert len([name for name in files if name.endswith(".toml")]) > 20


def test_the_wheel_tells_what_it_is(wheel: zipfile.ZipFile) -> None:
    [place] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    told = Parser().parsestr(wheel.read(place).decode())
    assert told["Name"] == "gracile"
    assert told["License-Expression"] == "Apache-2.0"
    assert told["Description-Content-Type"] == "text/markdown"
    assert "make demo" in str(told.get_payload())
    assert {"export", "tensorboard", "mlflow", "wandb"} <= set(told.get_all("Provides-Extra", []))
    entries = wheel.read(place.replace("METADATA", "entry_points.txt")).decode()
    assert "gracile = gracile.cli:main" in entries
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_every_link_of_the_description_works_on_a_package_index(wheel: zipfile.ZipFile) -> None:
    """Relative ones would lead nowhere there; their words stay."""
    [place] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    description = str(Parser().parsestr(wheel.read(place).decode()).get_payload())
    targets = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert len(targets) > 10
    found = re.findall(r"\]\(([^)]+)\)", description)
    assert all(target.startswith(("https://", "#")) for target in found), found
    assert "The command line has the other commands" in description
    assert "Real runs, three seeds" not in description
    assert "Which method?" not in description


def test_the_sdist_holds_what_git_keeps(tmp_path: Path) -> None:
    with tarfile.open(next(SdistBuilder(str(ROOT)).build(directory=str(tmp_path)))) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    assert files - {"PKG-INFO"} == kept()


def test_what_is_pinned_installs_on_the_oldest_python_that_is_promised():
    """soupsieve 4, which a theme of the site brings, wants 3.11.5; Debian 12 has 3.11.2, where nothing could be tested."""
    promised = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    oldest = f"{promised.removeprefix('>=')}.0"
    lines = [line.split("==") for line in (ROOT / "constraints.txt").read_text().split()]
    pins = {canonicalize_name(name): version for name, version in lines}
    # What is not installed tells nothing; another version than the pinned one is not the pin's.
    wants = {
        one.name: one.metadata.get("Requires-Python")
        for one in metadata.distributions()
        if pins.get(canonicalize_name(one.name)) == one.version.split("+")[0]
    }
    assert {"torch", "pytest", "ruff"} <= wants.keys()
    assert [name for name, asked in wants.items() if asked and not SpecifierSet(asked).contains(oldest)] == []
