"""Pictures of a network of workers: who is joined to whom, how they agree, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gracile.report.figures import new_figure, save
from gracile.workers import Graph

Rows = Sequence[Mapping[str, Any]]


def layout(graph: Graph, rounds: int = 300) -> np.ndarray:
    """(workers, 2) places in the unit square: springs along edges, repulsion between all (Fruchterman and Reingold 1991).

    Args:
        graph: to be drawn; it starts from a circle.
        rounds: of the relaxation.
    """
    n = graph.workers
    angle = 2 * np.pi * np.arange(n) / n
    places = np.stack([np.cos(angle), np.sin(angle)], 1)
    length = np.sqrt(4 / n)
    joined = np.zeros((n, n))
    for i, j in graph.edges:
        joined[i, j] = joined[j, i] = 1
    for step in range(rounds):
        away = places[:, None] - places
        far = np.linalg.norm(away, axis=-1) + np.eye(n) + 1e-9
        force = length**2 / far - joined * far**2 / length
        move = (away / far[..., None] * force[..., None]).sum(1)
        size = np.linalg.norm(move, axis=1, keepdims=True) + 1e-9
        places = places + move / size * np.minimum(size, 0.2 * (1 - step / rounds))
    places -= places.min(0)
    return places / max(places.max(), 1e-9)


def overview(path: Path, graph: Graph, rows: Rows, accuracy: Sequence[float], title: str) -> Path:
    """One network: its graph coloured by accuracy, accuracy of each worker, distance against its bound, bytes.

    Args:
        path: the PNG.
        graph: who is joined to whom.
        rows: measurements, with ``round``, ``bytes``, ``distance``, ``accuracy`` and where known ``bound``.
        accuracy: test accuracy of each worker that answered, percent.
        title: above.
    """
    figure = new_figure(12.5, 3.8)
    figure.suptitle(title, fontsize=11)
    drawn, curves, distances, costs = figure.subplots(1, 4)
    places = layout(graph)
    for i, j in graph.edges:
        drawn.plot(*places[[i, j]].T, color="0.65", linewidth=1, zorder=1)
    known = len(accuracy) == graph.workers
    dots = drawn.scatter(*places.T, c=accuracy if known else "C0", s=260, cmap="viridis", zorder=2, edgecolors="white")
    for worker, place in enumerate(places):
        drawn.annotate(
            str(worker), place, ha="center", va="center", fontsize=7, color="white", zorder=3,
            bbox={"boxstyle": "circle,pad=0.15", "facecolor": "0.2", "edgecolor": "none", "alpha": 0.55},
        )  # fmt: skip
    if known:
        figure.colorbar(dots, ax=drawn, label="test accuracy, %", shrink=0.8)
    drawn.set_aspect("equal")
    drawn.margins(0.15)
    drawn.axis("off")
    rounds = [row["round"] for row in rows]
    for worker in range(graph.workers):
        line = [np.nan if row["accuracy"][worker] is None else 100 * row["accuracy"][worker] for row in rows]
        label = f"worker {worker}" if graph.workers <= 8 else None
        curves.plot(rounds, line, linewidth=1, color=f"C{worker % 10}", label=label)
    curves.set(xlabel="round", ylabel="validation accuracy, %")
    if graph.workers <= 8:
        curves.legend(fontsize=6, frameon=False)
    _positive(distances, rounds, [row["distance"] for row in rows], "after the round", "-")
    bounded = [row for row in rows if "bound" in row]
    if bounded:
        at = [row["round"] for row in bounded]
        _positive(distances, at, [row["before"] for row in bounded], "before its exchange", ":")
        _positive(distances, at, [row["bound"] for row in bounded], "bound by the spectral gap", "--")
    distances.set(xlabel="round", ylabel="consensus distance")
    if distances.lines:
        distances.set_yscale("log")
        distances.legend(fontsize=7, frameon=False)
    costs.plot(rounds, [row["bytes"] / 1e6 for row in rows], color="C3")
    costs.set(xlabel="round", ylabel="MB sent over all links")
    for axes in (curves, distances, costs):
        axes.grid(alpha=0.3)
    return save(figure, path)


def _positive(axes: Any, x: Sequence[float], y: Sequence[float], label: str, line: str) -> None:
    """A line of what a logarithmic axis can show; before the first round there is only rounding."""
    kept = [(a, b) for a, b in zip(x, y, strict=True) if b > 0 and a > 0]
    if kept:
        axes.plot(*zip(*kept, strict=True), line, label=label, linewidth=1.2)


def comparison(path: Path, arms: Mapping[str, Rows]) -> Path:
    """Mean validation accuracy over workers, and its worst worker's, by round and by bytes: one colour an arm.

    Args:
        path: the PNG.
        arms: arm name to its measurements.
    """
    figure = new_figure(11.0, 4.4)
    by_round, by_bytes = figure.subplots(1, 2, sharey=True)
    for number, (name, rows) in enumerate(arms.items()):
        kept = [(row, [100 * value for value in row["accuracy"] if value is not None]) for row in rows]
        means, worst = [np.mean(values) for _, values in kept], [min(values) for _, values in kept]
        colour, line = f"C{number % 10}", "-" if number < 10 else "-."
        by_round.plot([row["round"] for row in rows], means, line, color=colour, label=name, linewidth=1.3)
        by_round.plot([row["round"] for row in rows], worst, ":", color=colour, linewidth=0.9)
        spent = [(row["bytes"], mean) for (row, _), mean in zip(kept, means, strict=True) if row["bytes"] > 0]
        if spent:
            by_bytes.plot(*zip(*spent, strict=True), line, color=colour, linewidth=1.3)
    by_round.set(xlabel="round", ylabel="validation accuracy, % (dotted: worst worker)")
    by_bytes.set(xlabel="bytes sent over all links", xscale="log")
    for axes in (by_round, by_bytes):
        axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=7, frameon=False)
    return save(figure, path)


def spread(path: Path, arms: Mapping[str, Sequence[float]]) -> Path:
    """Test accuracy of every worker, a line an arm: a dot each, a bar at the mean.

    Args:
        path: the PNG.
        arms: arm name to percents.
    """
    figure = new_figure(7.5, 1.0 + 0.26 * len(arms))
    axes = figure.subplots()
    for place, values in enumerate(arms.values()):
        axes.plot(values, [place] * len(values), "o", color="C0", alpha=0.35, markersize=4)
        axes.plot(np.mean(values), place, "|", color="C3", markersize=12, markeredgewidth=2)
    axes.set_yticks(range(len(arms)), list(arms), fontsize=7)
    axes.invert_yaxis()
    axes.set(xlabel="test accuracy of each worker, % (bar: mean)")
    axes.grid(alpha=0.3)
    return save(figure, path)
