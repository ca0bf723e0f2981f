"""The one place that makes a figure and writes it: with matplotlib's objects, so that no display and no global state is touched.

matplotlib is imported when one is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gracile.core.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float = 6.4, height: float = 4.0) -> Figure:
    """A figure with room for its labels; inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG at 120 dots per inch."""
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))
    return path
