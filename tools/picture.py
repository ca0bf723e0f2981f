"""README's picture, drawn from results that lie beside the recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gracile.core.figures import new_figure, svg_file

FILE = Path("docs/_static/results.svg")


@dataclass(frozen=True)
class Panel:
    """One published table of the picture.

    Attributes:
        recipe: its name.
        size: the size that is drawn.
        title: above.
        x: the column of the abscissa.
        label: of that axis.
        arms: to what they are called.
    """

    recipe: str
    size: str
    title: str
    x: str
    label: str
    arms: Mapping[str, str]


PANELS = (
    Panel(
        "table-4.3", "cpu", "VGG-16 of quarter width, 3,000 small images of CIFAR-10", "MACs left %", "multiply-adds that stay, %",
        {"baseline": "dense", "rgsm": "RGSM", "l1_norm": "l1 filters", "slimming_37": "slimming", "group_lasso": "group lasso",
         "admm": "ADMM", "slimming_37_scratch": "slimming's shape from scratch"},
    ),
    Panel(
        "table-3.2", "cpu", "ResNet-18 of quarter width, 3,000 small images of CIFAR-10", "sparsity %", "weights that are zero, %",
        {"sgd": "dense", "rvsm_as_sparse": "RVSM, l0", "admm_as_sparse": "ADMM", "gradual_as_sparse": "gradual magnitude"},
    ),
)  # fmt: skip


def picture(results: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    """The picture as an SVG file, light and dark; its description tells every number in it.

    Args:
        results: ``result.json`` by recipe and size.
    """
    panels = [panel for panel in PANELS if (panel.recipe, panel.size) in results]
    figure = new_figure(4.8 * len(panels), 3.4)
    told = []
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        rows = {row["arm"]: row for row in results[panel.recipe, panel.size]["rows"]}
        points = [
            (name, *_mean(rows[arm][panel.x]), *_mean(rows[arm]["accuracy %"])) for arm, name in panel.arms.items()
        ]
        for number, (name, x, _, y, spread) in enumerate(points):
            axes.errorbar(
                x, y, spread, fmt="o", markersize=7, capsize=4, color=f"C{number}", label=f"{name}: {y:.2f} %"
            )
        axes.set(xlabel=panel.label, ylabel="test accuracy, %", xlim=(-5, 100))
        axes.set_title(f"{panel.title} ({panel.recipe})", fontsize=9)
        axes.margins(y=0.25)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="lower left")
        words = "; ".join(f"{name} {y:.2f} ± {spread:.2f} % at {x:.2f} %" for name, x, _, y, spread in points)
        told.append(f"{panel.title}, {panel.recipe} at size {panel.size}: {words}.")
    return svg_file(figure, "Accuracy against what is gone", " ".join(told))


def description(drawn: str) -> str:
    """What a picture tells in words."""
    return drawn.partition("<desc ")[2].partition(">")[2].partition("</desc>")[0]


def _mean(cell: str) -> Sequence[float]:
    """Mean and spread of a cell such as ``93.10 ± 0.21``; an arm without such zeros has none."""
    mean, _, spread = cell.partition(" ± ")
    return float(mean or 0), float(spread or 0)
