"""Builds the sdist and from it the wheel, checks both as a package index would, and tries the wheel outside of the checkout.

    python tools/wheel.py            into dist/; called by `make wheel`

The wheel is installed into fresh environments in a temporary folder: one that layers over the packages installed here, where
the library and every kind of command line is tried, and an empty one for each other Python at hand that the project supports,
where what needs no package is: the version, the help, and that all files compile. Nothing is downloaded.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"

# What a user does first. It must come from the wheel, and the files beside its modules with it.
TRIED = """
import sys, pathlib, torch, gracile
place = pathlib.Path(gracile.__file__).parent
assert place.is_relative_to(sys.prefix), place
assert (place / "py.typed").is_file() and (place / "report" / "style.css").is_file()
from gracile.recipes import shipped
assert len(shipped()) > 20 and all(file.is_relative_to(place) for file in shipped().values())
x = torch.rand(4, 1, 8, 8)
split = gracile.RGSM(gracile.models.mlp(image_size=8), lam=0.9, example=x)
lean = gracile.shrink(split.sparse_model(), x)
print("library: ok, gracile", gracile.__version__, "in", place)
"""
COMMANDS = (
    ["--version"],
    ["run", "--help"],
    ["run", "digits", "--epochs", "1", "--set", "data.train_limit=100", "--set", "data.test_limit=60", "--quiet"],
    ["runs"],
)


def run(*command: str | Path, cwd: Path, quiet: bool = True) -> None:
    """Run a command away from the checkout's settings; its output is shown where it fails."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, text=True, capture_output=quiet, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout or ''}{done.stderr or ''}")


def build() -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it; a new build replaces what is in dist/."""
    shutil.rmtree(DIST, ignore_errors=True)
    # With the backend installed here: an environment of its own would have to be downloaded.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", DIST, ROOT, cwd=ROOT)
    [sdist], [wheel] = DIST.glob("*.tar.gz"), DIST.glob("*.whl")
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel, cwd=ROOT)
    return sdist, wheel


def pythons() -> dict[str, str]:
    """Other Pythons at hand that the project supports: version to executable, this one left out."""
    least = tuple(
        map(int, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"][2:].split("."))
    )
    places = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    places += glob.glob(str(Path.home() / ".pyenv" / "versions" / "*" / "bin"))
    found: dict[str, str] = {}
    for folder in places:
        for minor in range(least[1], least[1] + 10):
            file, version = Path(folder) / f"python3.{minor}", f"3.{minor}"
            if version in found or minor == sys.version_info.minor or not os.access(file, os.X_OK):
                continue
            # A shim of a version manager may stand for nothing.
            if subprocess.run([file, "-c", "import ensurepip"], capture_output=True, check=False).returncode == 0:
                found[version] = str(file)
    return found


def layered(folder: Path, wheel: Path) -> Path:
    """An environment with the wheel, over the packages that are installed here; its Python.

    The line in the .pth file is a folder, whose own .pth files are not read: an editable install of this checkout is not seen.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    run(
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        site,
        wheel,
        cwd=folder,
    )
    (site / "layer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def main() -> None:
    _, wheel = build()
    print(f"built and checked: {', '.join(sorted(file.name for file in DIST.iterdir()))}")
    with tempfile.TemporaryDirectory(prefix="gracile-wheel-") as temporary:
        place = Path(temporary)
        here = layered(place / "here", wheel)
        run(here, "-c", TRIED, cwd=place, quiet=False)
        for command in COMMANDS:
            run(here, "-m", "gracile", *command, cwd=place)
        print(f"command line: ok ({', '.join(command[0] for command in COMMANDS)})")
        for version, python in pythons().items():
            folder = place / version
            run(python, "-m", "venv", folder, cwd=place)
            fresh = folder / "bin" / "python"
            site = folder / "lib" / f"python{version}" / "site-packages"
            # Its own pip checks what the wheel requires, and of which Python; an older pip than this version does not run under it.
            run(fresh, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=place)
            run(fresh, "-W", "error", "-m", "compileall", "-q", site / "gracile", cwd=place)
            run(fresh, "-m", "gracile", "--version", cwd=place)
            run(folder / "bin" / "gracile", "--help", cwd=place)
            print(f"Python {version}: ok (installed without its dependencies: compiled, --version, --help)")


if __name__ == "__main__":
    main()
