"""The study's curves: accuracy and loss over steps, published figures as lines, and smoothness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from gracile.core.figures import new_figure, save

Rows = Sequence[Mapping[str, Any]]
# Arms beside each other in a legend.
COLUMNS = 6
SMOOTH = {
    "loss_range": "range of the loss along the gradient",
    "gradient_change_high": "largest change of the gradient, l2",
    "beta_smoothness": "effective beta-smoothness",
}


def draw(
    curves: Mapping[str, Sequence[Rows]], published: Mapping[str, float], folder: Path, *, smooth: bool
) -> dict[str, Path]:
    """Draw all curves.

    Args:
        curves: arm to one list of records a seed.
        published: arm to the published accuracy, percent.
        folder: of the files.
        smooth: whether the records hold measures of smoothness.
    """
    figure = new_figure(11.0, 4.2)
    accuracy, loss = figure.subplots(1, 2)
    for number, (name, seeds) in enumerate(curves.items()):
        _lines(accuracy, name, number, seeds, "val_accuracy", 100)
        _lines(loss, name, number, seeds, "train_loss", 1)
        if name in published:
            accuracy.axhline(published[name], color=f"C{number}", linestyle=":", linewidth=1)
    accuracy.set(xlabel="step", ylabel="validation accuracy, %", ylim=(_floor(curves), 100))
    loss.set(xlabel="step", ylabel="training loss", yscale="log")
    if published:
        accuracy.set_title("dotted: published, test split", fontsize="medium")
    for axes in (accuracy, loss):
        axes.grid(alpha=0.3)
    figure.legend(*accuracy.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=COLUMNS)
    drawn = {"study": save(figure, folder / "study.svg")}
    if smooth:
        figure = new_figure(13.0, 3.8)
        for axes, (key, label) in zip(figure.subplots(1, len(SMOOTH)), SMOOTH.items(), strict=True):
            for number, (name, seeds) in enumerate(curves.items()):
                _lines(axes, name, number, seeds, key, 1)
            axes.set(xlabel="step", ylabel=label, yscale="log")
            axes.grid(alpha=0.3)
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=COLUMNS
        )
        drawn["smoothness"] = save(figure, folder / "smoothness.svg")
    return drawn


def _lines(axes: Axes, name: str, number: int, seeds: Sequence[Rows], key: str, factor: float) -> None:
    for place, rows in enumerate(seeds):
        axes.plot(
            [row["step"] for row in rows], [factor * row[key] for row in rows], color=f"C{number}",
            alpha=0.35 if place else 1.0, linewidth=1.2, label=None if place else name,
        )  # fmt: skip


def _floor(curves: Mapping[str, Sequence[Rows]]) -> float:
    """Where the accuracy's axis begins: what the worst arm has after a fifth of its records, so that the end can be told apart."""
    at = [100 * rows[len(rows) // 5]["val_accuracy"] for seeds in curves.values() for rows in seeds if rows]
    return max(0.0, min(at, default=0.0) - 2)
