"""Other people's libraries, which tests hold this one against where they are there."""

from __future__ import annotations

import importlib
import importlib.util
import re
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

_DECLARED: list[torch.library.Library] = []


def declare_torchvision() -> None:
    """Make torchvision importable beside a torch that its wheel was not built for.

    Such a wheel brings no operators, and its Python files stop at naming them. Their names are declared here; what the tests use
    of it are networks, which call none of them.
    """
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None or _DECLARED or hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "DEF")
    texts = (file.read_text("utf-8") for file in Path(found.origin).parent.rglob("*.py"))
    pattern = re.compile(r'register_(?:fake|meta)\(\s*"(?:torchvision::)?(\w+)"')
    for name in sorted({name for text in texts for name in pattern.findall(text)}):
        library.define(f"{name}(Tensor x) -> Tensor")
    _DECLARED.append(library)


def peer(name: str) -> ModuleType:
    """Import a library, or skip the test and say why: not installed, or not for this torch."""
    try:
        with warnings.catch_warnings():
            # What it says of itself while it is imported is not ours to mend.
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name} is not installed: {error}")
    except RuntimeError as error:
        # torchvision built for another torch fails so, and what imports it with it.
        pytest.skip(f"{name} does not go with this torch: {error}")
