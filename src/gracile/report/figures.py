"""The figures of a run, as PNG files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gracile.core.figures import new_figure, save
from gracile.core.names import safe_name

__all__ = ["learning_curves", "new_figure", "save", "save_all", "sparsity_curves", "weight_histograms"]

Rows = Sequence[Mapping[str, Any]]


def save_all(drawn: Mapping[str, Figure], folder: Path) -> dict[str, Path]:
    """Write figures into a folder, each as ``NAME.png``; their files by name."""
    return {name: save(figure, folder / f"{safe_name(name, 'figure')}.png") for name, figure in drawn.items()}


def learning_curves(arms: Mapping[str, Sequence[Rows]], path: Path) -> Path:
    """Validation accuracy and training loss by epoch: one line an arm, a thin one a seed.

    Args:
        arms: arm name to one list of metric rows a seed.
        path: the PNG.
    """
    figure = new_figure(9.0, 3.8)
    accuracy, loss = figure.subplots(1, 2)
    for number, (name, seeds) in enumerate(arms.items()):
        for first, rows in _first(seeds):
            epochs = [row["epoch"] for row in rows]
            kept = [100 * row.get("sparse_val_accuracy", row["val_accuracy"]) for row in rows]
            style = {"color": f"C{number}", "alpha": 1.0 if first else 0.4, "label": name if first else None}
            accuracy.plot(epochs, kept, **style)
            loss.semilogy(epochs, [row["train_loss"] for row in rows], **style)
    accuracy.set(xlabel="epoch", ylabel="validation accuracy of what is kept, %")
    loss.set(xlabel="epoch", ylabel="training loss, nats")
    for axes in (accuracy, loss):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return save(figure, path)


def sparsity_curves(arms: Mapping[str, Sequence[Rows]], path: Path) -> Path:
    """Share of exact zeros, and of zero channels where there are groups, by epoch."""
    figure = new_figure()
    axes = figure.subplots()
    for number, (name, seeds) in enumerate(arms.items()):
        for first, rows in _first(seeds):
            epochs = [row["epoch"] for row in rows]
            for key, line in (("sparsity", "-"), ("channel_sparsity", "--")):
                if rows and key in rows[0]:
                    label = f"{name}, {'weights' if key == 'sparsity' else 'channels'}" if first else None
                    axes.plot(
                        epochs, [100 * row[key] for row in rows], line, color=f"C{number}", label=label,
                        alpha=1.0 if first else 0.4,
                    )  # fmt: skip
    axes.set(xlabel="epoch", ylabel="zeros, %", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return save(figure, path)


def weight_histograms(arms: Mapping[str, np.ndarray], path: Path) -> Path:
    """Histogram of the weights each arm keeps, exact zeros counted apart.

    Args:
        arms: arm name to all its weights, flat.
        path: the PNG.
    """
    figure = new_figure()
    axes = figure.subplots()
    largest = max((float(np.quantile(np.abs(w[w != 0]), 0.999)) for w in arms.values() if np.any(w)), default=1.0)
    edges = np.linspace(-largest, largest, 81)
    for number, (name, w) in enumerate(arms.items()):
        share = 100 * float(np.mean(w == 0))
        axes.hist(
            w[w != 0],
            bins=list(edges),
            histtype="step",
            color=f"C{number}",
            label=f"{name} ({share:.1f} % exactly zero)",
        )
    axes.set(xlabel="weight", ylabel="count (non-zero weights)", yscale="log")
    axes.legend(frameon=False)
    return save(figure, path)


def _first(seeds: Sequence[Rows]) -> Iterable[tuple[bool, Rows]]:
    return ((number == 0, rows) for number, rows in enumerate(seeds))
