"""What a command line costs before it does anything, beside a bare Python and beside torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from benchmarks.protocol import Case

COMMANDS = {
    "python": ["-c", "pass"],
    "import gracile": ["-c", "import gracile"],
    "gracile --help": ["-m", "gracile", "--help"],
    "gracile run --help": ["-m", "gracile", "run", "--help"],
    "import torch": ["-c", "import torch"],
}


def cases(small: bool) -> Iterator[Case]:
    calls = {
        name: partial(subprocess.run, [sys.executable, *words], check=True, capture_output=True)
        for name, words in COMMANDS.items()
        if not (small and "torch" in name)
    }
    yield Case("a process", "python", calls)
