"""gracile: lean, robust networks, and why they come out so.

Rooms (`gracile.splitting`, `gracile.attacks`, ...) and the names below are loaded on first use, so that ``import gracile`` and
``gracile --help`` do not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gracile.core.version import VERSION as __version__

if TYPE_CHECKING:
    from gracile.deploy import attack as attack
    from gracile.deploy import compress as compress
    from gracile.deploy import from_pretrained as from_pretrained
    from gracile.export import export_onnx as export_onnx
    from gracile.recipes.hub import push_to_hub as push_to_hub
    from gracile.recipes.over_workers import train_over_workers as train_over_workers
    from gracile.recipes.request import run as run
    from gracile.recipes.trained import trained as trained
    from gracile.report import write_report as write_report
    from gracile.report.weights import draw_weights as draw_weights
    from gracile.shrinking import shrink as shrink
    from gracile.splitting import RGSM as RGSM
    from gracile.splitting import RVSM as RVSM
    from gracile.training import fit as fit
    from gracile.walks.summary import walk as walk


_HOMES = {
    "RGSM": "gracile.splitting",
    "RVSM": "gracile.splitting",
    "attack": "gracile.deploy",
    "compress": "gracile.deploy",
    "draw_weights": "gracile.report.weights",
    "export_onnx": "gracile.export",
    "fit": "gracile.training",
    "from_pretrained": "gracile.deploy",
    "push_to_hub": "gracile.recipes.hub",
    "run": "gracile.recipes.request",
    "shrink": "gracile.shrinking",
    "train_over_workers": "gracile.recipes.over_workers",
    "trained": "gracile.recipes.trained",
    "walk": "gracile.walks.summary",
    "write_report": "gracile.report",
}

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    "RGSM",
    "RVSM",
    "__version__",
    "attack",
    "compress",
    "draw_weights",
    "export_onnx",
    "fit",
    "from_pretrained",
    "push_to_hub",
    "run",
    "shrink",
    "train_over_workers",
    "trained",
    "walk",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    room = f"{__name__}.{name}"
    if not name.startswith("_"):
        try:
            return importlib.import_module(room)
        except ModuleNotFoundError as error:
            # A room that is there and lacks something of its own says so itself.
            if error.name != room:
                raise
    raise AttributeError(f"module 'gracile' has no attribute '{name}'")


def __dir__() -> list[str]:
    import pkgutil

    return sorted({*globals(), *_HOMES, *(found.name for found in pkgutil.iter_modules(__path__) if found.ispkg)})
