"""Other people's libraries, which tests hold this one against where they are there."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

import pytest


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
