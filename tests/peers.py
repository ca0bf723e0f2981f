"""Other people's libraries, which tests hold this one against where they are there.

``python -m tests.peers FILE ...`` runs a script with them at hand.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import runpy
import sys
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from torch import library


def peer(name: str) -> ModuleType:
    """Import a library, or skip the test where it is not installed; one that is there and cannot be imported fails the test."""
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        pytest.skip(f"needs {name}, which `make peers` installs")
    operators_of_torchvision()
    with warnings.catch_warnings():
        # What it says of itself while it is imported is not ours to mend.
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


@cache
def operators_of_torchvision() -> library.Library | None:
    """Declare torchvision's own operators, so that a build for another torch imports, and timm and transformers with it.

    What a network of theirs computes is torch's; operators such as nms stay without a kernel.

    Returns:
        the declarations, which hold as long as they are kept; None where torchvision is not there or has its operators.
    """
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        declared = library.Library("torchvision", "DEF")
        text = "".join(path.read_text("utf-8") for path in Path(found.origin).parent.rglob("*.py"))
        for name in sorted(set(re.findall(r'register_(?:fake|meta)\(\s*"(?:torchvision::)?(\w+)"', text))):
            declared.define(f"{name}(Tensor x) -> Tensor")
        return declared
    return None


def script(file: str, *words: str) -> None:
    """Run a script with these libraries at hand."""
    operators_of_torchvision()
    sys.argv = [file, *words]
    runpy.run_path(file, run_name="__main__")


if __name__ == "__main__":
    script(*sys.argv[1:])
