"""What every test shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

# Tests run side by side on few cores; more threads than cores make all of them slower.
torch.set_num_threads(1)


@pytest.fixture
def data_root() -> Path:
    """The folder of real data sets; a test that needs it is skipped where there is none."""
    root = os.environ.get("GRACILE_DATA")
    if not root:
        pytest.skip("needs real data: set GRACILE_DATA to a folder with mnist, cifar10 and letter")
    return Path(root)
