"""Where a number came from: commit, device, versions."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("gracile", "torch", "numpy", "scipy", "scikit-learn", "onnxruntime")


def environment() -> dict[str, Any]:
    """Versions, device, threads and commit of this process, as plain JSON values."""
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": dict(_versions()),
        "commit": commit(),
    }


@functools.cache
def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


@functools.cache
def processor() -> str:
    """The processor's model name where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@functools.cache
def commit() -> str | None:
    """The checkout's commit, with ``+changes`` when tracked files differ; None outside a checkout of this project.

    It is that of the first call in this process: what is imported stays as it was, whatever the checkout becomes.
    """

    def git(*words: str) -> str:
        folder = Path(__file__).parent
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, check=True, text=True, timeout=10)
        return done.stdout.strip()

    try:
        # A package installed inside somebody else's checkout must not report that checkout's commit.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        head, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+changes" if changes else "")


# What of an environment tells whether two parts of a run were trained in the same place.
PLACES = {
    "commit": "at commit {:.12}",
    "processor": "on {}",
    "device": "on the device {}",
    "threads": "with {} threads",
}


def places_apart(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """How the place of one `environment` differs from another's, in words."""
    return [words.format(str(then.get(key))) for key, words in PLACES.items() if then.get(key) != now[key]]
