"""gracile: lean, robust networks, and why they come out so.

The names below are loaded on first use, so that ``import gracile`` and ``gracile --help`` do not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gracile.export import export_onnx as export_onnx
    from gracile.shrinking import shrink as shrink
    from gracile.splitting import RGSM as RGSM
    from gracile.splitting import RVSM as RVSM
    from gracile.training import fit as fit

__version__ = "0.1.0"

_HOMES = {
    "RVSM": "gracile.splitting",
    "RGSM": "gracile.splitting",
    "export_onnx": "gracile.export",
    "fit": "gracile.training",
    "shrink": "gracile.shrinking",
}
_ROOMS = (
    "attacks",
    "channels",
    "core",
    "data",
    "dynamics",
    "export",
    "layerwise",
    "models",
    "penalties",
    "pruning",
    "recipes",
    "shrinking",
    "splitting",
    "training",
    "walks",
)

__all__ = ["RGSM", "RVSM", "__version__", "export_onnx", "fit", "shrink"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"gracile.{name}")
    raise AttributeError(f"module 'gracile' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_ROOMS})
