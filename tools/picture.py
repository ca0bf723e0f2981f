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
    """Arms of one recipe.

    Attributes:
        recipe: its name.
        size: the size that is drawn.
        title: above.
        x: the column of the abscissa, and the axis' label.
        y: likewise of the ordinate.
        arms: to what they are called.
    """

    recipe: str
    size: str
    title: str
    x: tuple[str, str]
    y: tuple[str, str]
    arms: Mapping[str, str]


# What points of one abscissa are set apart by, so that none hides another; in percent.
APART = 1.2
UNDER_ATTACK = ("PGD-20 %", "stand PGD of 40 steps, %")
PANELS = (
    Panel(
        "robust-mnist", "laptop", "MNIST, adversarially trained: weights", ("sparsity %", "weights that are zero, %"), UNDER_ATTACK,
        {"dense": "dense", "rvsm80": "RVSM at 80 %", "admm80": "ADMM at 80 %", "rvsm90": "RVSM at 90 %", "admm90": "ADMM at 90 %"},
    ),
    Panel(
        "robust-mnist", "laptop", "the same: channels", ("MACs left %", "multiply-adds that stay, %"), UNDER_ATTACK,
        {"dense": "dense", "rgsm": "RGSM", "same_shape": "its shape from scratch", "admm_channels": "ADMM"},
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
            (name, *_mean(rows[arm][panel.x[0]]), *_mean(rows[arm][panel.y[0]])) for arm, name in panel.arms.items()
        ]
        for number, (name, x, _, y, spread) in enumerate(points):
            beside = APART * sum(abs(x - other) < APART for _, other, *_ in points[:number])
            axes.errorbar(
                x + beside, y, spread, fmt="o", markersize=7, capsize=4, color=f"C{number}", label=f"{name}: {y:.1f} %"
            )
        axes.set(xlabel=panel.x[1], ylabel=panel.y[1], xlim=(-5, 105))
        axes.set_title(f"{panel.title} ({panel.recipe})", fontsize=9)
        axes.margins(y=0.25)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="best")
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
