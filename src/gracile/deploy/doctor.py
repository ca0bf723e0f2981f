"""What is installed and what this machine can do: versions, devices, instruction sets, threads, data sets, optional extras."""

from __future__ import annotations

import importlib.metadata
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gracile.core.provenance import environment
from gracile.data.named import KNOWN

# Instruction sets that decide what is fast here, and for what.
SETS = {
    "avx2": "vector kernels",
    "avx512f": "wide vector kernels",
    "avx512_vnni": "8-bit weights in int8 (--weight-bits 8)",
    "avx_vnni": "8-bit weights in int8 (--weight-bits 8)",
    "amx_bf16": "bf16 training on this processor",
    "amx_int8": "int8 on this processor",
    "asimddp": "int8 on this processor",
}
REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+).*?;\s*extra\s*==\s*['\"]([\w-]+)['\"]")


@dataclass(frozen=True)
class Examined:
    """What was found.

    Attributes:
        environment: as every run keeps it: versions, processor, threads, device, commit.
        instruction_sets: those of the processor that matter, to what for.
        devices: name and memory in GiB of each GPU.
        root: where named data sets are looked for; None where nothing says so.
        data: names of data sets found there, or shipped.
        missing: names of data sets that are not.
        extras: optional extra to its packages, each with its version or None where it is not installed.
    """

    environment: dict[str, Any]
    instruction_sets: dict[str, str]
    devices: list[tuple[str, float]]
    root: Path | None
    data: list[str]
    missing: list[str]
    extras: dict[str, dict[str, str | None]]

    def __str__(self) -> str:
        here = self.environment
        versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
        sets = ", ".join(f"{name} ({use})" for name, use in self.instruction_sets.items()) or "none that matter here"
        gpus = ", ".join(f"{name}, {memory:.0f} GiB" for name, memory in self.devices) or "no CUDA device"
        where = f"under {self.root}" if self.root else "no --data-root, no GRACILE_DATA"
        lines = [
            f"versions   python {here['python']}, {versions}",
            f"commit     {here['commit'] or 'not a checkout'}",
            f"system     {here['platform']}",
            f"processor  {here['processor']}, {here['cores']} cores, {here['threads']} threads for torch",
            f"           instruction sets: {sets}",
            f"GPU        {gpus}",
            f"data       {', '.join(self.data)} ({where})",
        ]
        if self.missing:
            lines.append(f"           fetched from the hub when named: {', '.join(self.missing)}")
        for extra, packages in self.extras.items():
            lacking = [name for name, version in packages.items() if version is None]
            state = f"lacks {', '.join(lacking)}: pip install 'gracile[{extra}]'" if lacking else "installed"
            lines.append(f"extra      {extra}: {state}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The same for a program."""
        return {
            "environment": self.environment, "instruction_sets": self.instruction_sets,
            "devices": [{"name": name, "memory_gib": memory} for name, memory in self.devices],
            "data_root": None if self.root is None else str(self.root), "data": self.data, "data_missing": self.missing,
            "extras": self.extras,
        }  # fmt: skip


def examine() -> Examined:
    """Look at this machine and this installation; nothing is written, and nothing is fetched."""
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    flags = _processor_flags()
    named = os.environ.get("GRACILE_DATA")
    root = Path(named) if named else None
    found = [name for name in KNOWN if root is not None and (root / name).is_dir()]
    return Examined(
        environment(),
        {name: use for name, use in SETS.items() if name in flags},
        [(gpu.name, gpu.total_memory / 2**30) for gpu in gpus],
        root,
        ["digits", *found],
        [name for name in KNOWN if name not in found],
        _extras(),
    )


def _processor_flags() -> set[str]:
    """What Linux says the processor can do; nothing elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    line = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, flags=re.M)
    return set(line[1].split()) if line else set()


def _extras() -> dict[str, dict[str, str | None]]:
    """The optional packages that the installed distribution names, by extra."""
    found: dict[str, dict[str, str | None]] = {}
    try:
        requirements = importlib.metadata.requires("gracile") or []
    except importlib.metadata.PackageNotFoundError:
        return found
    for requirement in requirements:
        match = REQUIREMENT.match(requirement)
        if match and match[1].lower() != "gracile":
            found.setdefault(match[2], {})[match[1]] = _version(match[1])
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
