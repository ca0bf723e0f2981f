"""Pictures of a network of workers: who is joined to whom, how they agree, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import cm, colormaps, colors, patheffects

from gracile.core.figures import new_figure, save
from gracile.workers import Graph

Rows = Sequence[Mapping[str, Any]]
COLOURS = colormaps["viridis"]
# Points of accuracy below which workers are shown as one, and the share of its start below which a distance is rounding.
ALIKE, EXACT = 1e-6, 1e-5


def layout(graph: Graph, rounds: int = 300) -> np.ndarray:
    """(workers, 2) places in the unit square: springs along edges, repulsion between all [@fruchterman1991].

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
    """One network: its graph and the accuracy of each worker in one scale of colours, distance against its bound, bytes.

    Args:
        path: the file, ``.svg`` or ``.png``.
        graph: who is joined to whom.
        rows: measurements, with ``round``, ``bytes``, ``distance``, ``accuracy`` and where known ``before`` and
            ``bound``.
        accuracy: test accuracy of each worker that answered, percent.
        title: above.
    """
    figure = new_figure(9.5, 6.6)
    figure.suptitle(title, fontsize=11)
    (drawn, curves), (distances, costs) = figure.subplots(2, 2)
    colours = _colours(accuracy) if len(accuracy) == graph.workers else ["C0"] * graph.workers
    _graph(drawn, graph, colours)
    if len(accuracy) == graph.workers and max(accuracy) - min(accuracy) > ALIKE:
        scale = cm.ScalarMappable(colors.Normalize(min(accuracy), max(accuracy)), COLOURS)
        figure.colorbar(scale, ax=drawn, location="left", label="test accuracy, %", shrink=0.8)
    elif accuracy:
        drawn.set_title(f"test accuracy of each: {np.mean(accuracy):.2f} %", fontsize=9)
    rounds = [row["round"] for row in rows]
    of_each = np.array([[np.nan if value is None else 100 * value for value in row["accuracy"]] for row in rows])
    if np.nanmax(np.ptp(of_each, axis=1)) <= ALIKE:
        curves.plot(rounds, of_each.mean(1), color=colours[0], label="every worker")
        curves.legend(fontsize=8, frameon=False, loc="lower right")
    else:
        for worker, line in enumerate(of_each.T):
            curves.plot(rounds, line, linewidth=1.1, color=colours[worker])
    curves.set(xlabel="round", ylabel="validation accuracy, %")
    _distances(distances, rows)
    costs.plot(rounds, [row["bytes"] / 1e6 for row in rows], color="C3")
    costs.set(xlabel="round", ylabel="MB sent over all links", ylim=(0, None))
    for axes in (curves, distances, costs):
        axes.grid(alpha=0.3)
    return save(figure, path)


def _colours(accuracy: Sequence[float]) -> list[Any]:
    low, high = min(accuracy), max(accuracy)
    if high - low <= ALIKE:
        return ["C0"] * len(accuracy)
    return [COLOURS((value - low) / (high - low)) for value in accuracy]


def _graph(axes: Any, graph: Graph, colours: Sequence[Any]) -> None:
    places = layout(graph)
    for i, j in graph.edges:
        axes.plot(*places[[i, j]].T, color="0.65", linewidth=1, zorder=1)
    axes.scatter(*places.T, c=list(colours), s=260, zorder=2, edgecolors="white")
    for worker, place in enumerate(places):
        text = axes.annotate(str(worker), place, ha="center", va="center_baseline", fontsize=8, color="white", zorder=3)
        text.set_path_effects([patheffects.withStroke(linewidth=2, foreground="0.2")])
    axes.set_aspect("equal")
    axes.margins(0.15)
    axes.axis("off")


def _distances(axes: Any, rows: Rows) -> None:
    """Before and after the exchange, and the most that may be left of it; an exact mean leaves rounding alone."""
    compared = [row for row in rows if "before" in row]
    exact = bool(compared) and all(row["distance"] <= EXACT * row["before"] for row in compared)
    lines = {
        "before the exchange": (":", [(row["round"], row["before"]) for row in compared]),
        "what one round of gossip may leave" if exact else "bound by the spectral gap": (
            "--", [(row["round"], row["bound"]) for row in compared if "bound" in row],
        ),
        "after the exchange": ("-", [(row["round"], row["distance"]) for row in rows if row["round"]]),
    }  # fmt: skip
    for number, (label, (style, line)) in enumerate(lines.items()):
        # Workers that begin alike may have no distance yet, and a logarithmic axis no zero.
        kept = [(at, value) for at, value in line if exact or value > 0]
        if kept:
            axes.plot(*zip(*kept, strict=True), style, color=f"C{number}", label=label, linewidth=1.2)
    axes.set(xlabel="round", ylabel="consensus distance", yscale="linear" if exact else "log")
    if axes.lines:
        axes.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))


def comparison(path: Path, arms: Mapping[str, Rows], published: Mapping[str, float]) -> Path:
    """Mean validation accuracy over workers, and its worst worker's, by round and by bytes: one colour an arm.

    Args:
        path: the file, ``.svg`` or ``.png``.
        arms: arm name to its measurements.
        published: arm name to a published accuracy, percent, for those that answer to one.
    """
    figure = new_figure(11.0, 4.4)
    by_round, by_bytes = figure.subplots(1, 2, sharey=True)
    floor = 100.0
    for number, (name, rows) in enumerate(arms.items()):
        kept = [(row, [100 * value for value in row["accuracy"] if value is not None]) for row in rows]
        means, worst = [np.mean(values) for _, values in kept], [min(values) for _, values in kept]
        colour, line = f"C{number % 10}", "-" if number < 10 else "-."
        by_round.plot([row["round"] for row in rows], means, line, color=colour, label=name, linewidth=1.3)
        # What comes before the first fifth would take the room of what is compared.
        floor = min(floor, *worst[min(len(worst) - 1, -(-len(worst) // 5)) :])
        by_round.plot([row["round"] for row in rows], worst, ":", color=colour, linewidth=0.9)
        spent = [(row["bytes"], mean) for (row, _), mean in zip(kept, means, strict=True) if row["bytes"] > 0]
        if spent:
            by_bytes.plot(*zip(*spent, strict=True), line, color=colour, linewidth=1.3)
    by_round.set(xlabel="round", ylabel="validation accuracy, % (dotted: worst worker)")
    by_round.set_ylim(max(0.0, floor - 1), min(100.0, by_round.get_ylim()[1]))
    by_bytes.set(xlabel="bytes sent over all links", xscale="log")
    for value in set(published.values()):
        by_round.axhline(value, color="0.3", linestyle=(0, (4, 4)), linewidth=0.9, label="published, test split")
    for axes in (by_round, by_bytes):
        axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return save(figure, path)


def spread(path: Path, arms: Mapping[str, Sequence[float]]) -> Path:
    """Test accuracy of every worker, a line per arm: a dot each, a bar at the mean.

    Args:
        path: the file, ``.svg`` or ``.png``.
        arms: arm name to percents.
    """
    figure = new_figure(7.5, 1.0 + 0.26 * len(arms))
    axes = figure.subplots()
    for place, values in enumerate(arms.values()):
        axes.plot(values, [place] * len(values), "o", color="C0", alpha=0.35, markersize=4)
        axes.plot(np.mean(values), place, "|", color="C3", markersize=12, markeredgewidth=2)
    axes.set_yticks(range(len(arms)), list(arms), fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="test accuracy of each worker, % (bar: mean)")
    axes.grid(alpha=0.3)
    return save(figure, path)
