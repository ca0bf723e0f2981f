"""The figures of a run, as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gracile.core.figures import save
from gracile.core.names import safe_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_all(drawn: Mapping[str, Figure], folder: Path) -> dict[str, Path]:
    """Write figures into a folder, each as ``NAME.svg``; their files by name."""
    return {name: save(figure, folder / f"{safe_name(name, 'figure')}.svg") for name, figure in drawn.items()}
