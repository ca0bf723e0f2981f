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
        arms: by what they are called; several of one method are joined by a line.
        level: an arm that is drawn as a line across, by its accuracy, and what it is called.
    """

    recipe: str
    size: str
    title: str
    x: tuple[str, str]
    y: tuple[str, str]
    arms: Mapping[str, Sequence[str]]
    level: tuple[str, str] | None = None


# What points of one abscissa are set apart by, so that none hides another; in percent.
APART = 0.45
BUDGETS = (50, 30, 15)
METHODS = {
    "RGSM": "rgsm", "group lasso": "lasso", "RGSM's shape from scratch": "scratch", "l1 filters": "l1", "random channels": "random",
    "slimming": "slimming", "gradual magnitude": "gradual", "ADMM": "admm",
}  # fmt: skip
PANELS = (
    Panel(
        "opponents", "vgg", "VGG-16, a quarter of the width, CIFAR-10 at 16x16: channels", ("MACs left %", "multiply-adds that stay, %"),
        ("accuracy %", "test accuracy, %"),
        {name: [f"{method}_{budget}" for budget in BUDGETS] for name, method in METHODS.items()}, ("dense", "dense"),
    ),
    Panel(
        "robust-mnist", "laptop", "MNIST, adversarially trained: weights", ("sparsity %", "weights that are zero, %"),
        ("PGD-20 %", "accuracy under PGD-40, %"),
        {"RVSM": ["rvsm80", "rvsm90"], "ADMM": ["admm80", "admm90"]}, ("dense", "dense"),
    ),
)  # fmt: skip


def picture(results: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    """The picture as an SVG file, light and dark; its description tells every number in it.

    Args:
        results: ``result.json`` by recipe and size.
    """
    panels = [panel for panel in PANELS if (panel.recipe, panel.size) in results]
    figure = new_figure(5.2 * len(panels), 3.8)
    told = []
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        rows = {row["arm"]: row for row in results[panel.recipe, panel.size]["rows"]}
        words, taken = [], []
        if panel.level is not None:
            arm, name = panel.level
            y, spread = _mean(rows[arm][panel.y[0]])
            axes.axhline(y, color="0.6", linestyle="--", linewidth=1, label=f"{name}: {y:.1f} %")
            words.append(f"{name} {y:.2f} ± {spread:.2f} %")
        for number, (name, arms) in enumerate(panel.arms.items()):
            points = [(*_mean(rows[arm][panel.x[0]]), *_mean(rows[arm][panel.y[0]])) for arm in arms]
            places = [x + APART * sum(abs(x - other) < APART for other in taken) for x, *_ in points]
            taken += [x for x, *_ in points]
            # The first is what the panel is about.
            style = (
                {"linewidth": 2.2, "markersize": 7, "zorder": 3} if number == 0 else {"linewidth": 1, "markersize": 4}
            )
            axes.errorbar(
                places, [y for *_, y, _ in points], [spread for *_, spread in points], fmt="o-", elinewidth=0.8, capsize=2,
                color=f"C{number}", label=name, **style,
            )  # fmt: skip
            words += [f"{name} {y:.2f} ± {spread:.2f} % at {x:.2f} %" for x, _, y, spread in points]
        axes.set(xlabel=panel.x[1], ylabel=panel.y[1])
        axes.set_title(f"{panel.title} ({panel.recipe})", fontsize=9)
        axes.margins(0.08, 0.12)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7, loc="best")
        told.append(f"{panel.title}, {panel.recipe} at size {panel.size}: {'; '.join(words)}.")
    return svg_file(figure, "Accuracy against what is gone", " ".join(told))


def description(drawn: str) -> str:
    """What a picture tells in words."""
    return drawn.partition("<desc ")[2].partition(">")[2].partition("</desc>")[0]


def _mean(cell: str) -> Sequence[float]:
    """Mean and spread of a cell such as ``93.10 ± 0.21``; an arm without such zeros has none."""
    mean, _, spread = cell.partition(" ± ")
    return float(mean or 0), float(spread or 0)
