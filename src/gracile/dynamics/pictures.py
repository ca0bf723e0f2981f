"""The room's pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from gracile.dynamics.tree import BIAS, TreeNetwork


def drift_curves(
    curves: Mapping[str, Sequence[tuple[float, float]]], *, xlabel: str, title: str, figure: Figure
) -> Figure:
    """Drift against time, step or step size, both on logarithmic axes.

    Args:
        curves: label to points; zeros are left out, as a logarithm has no place for them.
        xlabel: of the abscissa.
        title: of the picture.
        figure: drawn into.
    """
    axes = figure.subplots()
    colours: dict[str, str] = {}
    for name, points in curves.items():
        kept = [(x, y) for x, y in points if x > 0 and y > 0]
        if not kept:
            continue
        first, _, second = name.partition(", ")  # lines of one network share its colour
        colour = colours.setdefault(first, f"C{len(colours) % 10}")
        style = "--" if second == "moves" else "-"
        axes.loglog(*zip(*kept, strict=True), style, marker="o", markersize=3, color=colour, label=name)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel=xlabel, ylabel="largest change of an entry of D", title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def spectra(
    over: Sequence[float], values: Mapping[str, Sequence[Sequence[float]]], *, xlabel: str, figure: Figure
) -> Figure:
    """Singular values over time, one panel per layer, divided by the largest.

    Args:
        over: (times,), positive.
        values: layer to (times, singular values), descending.
        xlabel: of the abscissa.
        figure: drawn into.
    """
    panels = np.atleast_1d(figure.subplots(1, len(values), sharey=True))
    for axes, (name, found) in zip(panels, values.items(), strict=True):
        array = np.array(found)
        array = array / array[:, :1]
        for index in range(array.shape[1]):
            axes.loglog(over, np.maximum(array[:, index], 1e-6), color=f"C{index % 10}")
        axes.set(title=name, xlabel=xlabel)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("singular value / largest")
    return figure


def alignment_map(
    over: Sequence[float], values: Mapping[str, Sequence[float]], *, xlabel: str, figure: Figure
) -> Figure:
    """``-log10(1 - |<v, u>|)`` of adjacent layers over time: how many nines the alignment has.

    Args:
        over: (times,).
        values: junction to (times,) alignments in [0, 1].
        xlabel: of the abscissa.
        figure: drawn into.
    """
    axes = figure.subplots()
    nines = -np.log10(np.maximum(1 - np.array(list(values.values())), 1e-12))
    image = axes.imshow(nines, aspect="auto", cmap="viridis", vmin=0)
    axes.set_yticks(range(len(values)), list(values), fontsize=8)
    ticks = np.linspace(0, len(over) - 1, min(6, len(over))).astype(int)
    axes.set_xticks(ticks, [f"{over[tick]:.0e}" for tick in ticks], fontsize=8)
    axes.set(xlabel=xlabel, title="alignment of adjacent layers")
    figure.colorbar(image, label="-log10(1 - |<v, u>|)")
    return figure


def ratios(
    points: Mapping[str, Sequence[tuple[float, float]]], limits: Mapping[str, float], *, xlabel: str, figure: Figure
) -> Figure:
    """``|W|_2^2 / |W|_F^2`` over the run, the proved limits dotted in the layer's colour."""
    axes = figure.subplots()
    for number, (name, found) in enumerate(points.items()):
        axes.semilogx(*zip(*found, strict=True), color=f"C{number % 10}", label=name)
        if limits.get(name, 1.0) < 1.0:
            axes.axhline(limits[name], color=f"C{number % 10}", linestyle=":", linewidth=1)
    axes.set(xlabel=xlabel, ylabel="|W|$_2^2$ / |W|$_F^2$", ylim=(0, 1.03))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def tree_drawing(tree: TreeNetwork, figure: Figure, inputs: Sequence[str] = ()) -> Figure:
    """The tree h with its signs, one path of the network at each leaf.

    Args:
        tree: small: a leaf takes a fifth of an inch.
        figure: drawn into.
        inputs: names of the input coordinates, x1, x2, ... by default.
    """
    axes = figure.subplots()
    x = _places(tree)
    y = -tree.depth.astype(float)
    for child in range(1, len(tree.parent)):
        parent, plus = tree.parent[child], tree.sign[child] > 0
        axes.plot([x[child], x[parent]], [y[child], y[parent]], color="C0" if plus else "C3", zorder=1)
        axes.text((x[child] + x[parent]) / 2, (y[child] + y[parent]) / 2, "+" if plus else "−", ha="center", va="center",
                  fontsize=9, bbox={"boxstyle": "circle,pad=0.1", "fc": "white", "ec": "none"}, zorder=2)  # fmt: skip
    for vertex in range(len(tree.parent)):
        if vertex in set(tree.leaves.tolist()):
            continue
        switch = tree.slope[vertex] != 1
        axes.scatter(x[vertex], y[vertex], s=160, color="C1" if switch else "0.7", edgecolor="black", zorder=3)
    for leaf, coordinate, sign in zip(tree.leaves, tree.coordinate, tree.leaf_sign, strict=True):
        name = "1" if coordinate == BIAS else inputs[coordinate] if inputs else f"x{coordinate + 1}"
        steps = _product(tree, int(leaf))
        axes.scatter(x[leaf], y[leaf], s=60, color="white", edgecolor="black", zorder=3)
        label = f"{'+' if sign > 0 else '−'}\n{steps}\n· {name}"
        axes.text(float(x[leaf]), float(y[leaf]) - 0.18, label, ha="center", va="top", fontsize=8)
    axes.set_ylim(y.min() - 1.1, 0.4)
    axes.margins(x=0.15)
    axes.set_axis_off()
    axes.set_title("h: all weights are signs; its inputs are the paths p(x, w)\norange: ReLU, grey: linear", fontsize=9)
    return figure


def _product(tree: TreeNetwork, leaf: int) -> str:
    learned = sorted({int(tree.edge[one]) for one in range(1, len(tree.parent)) if not _is_switch_edge(tree, one)})
    numbers: list[str] = []
    vertex = leaf
    while vertex > 0:
        if not _is_switch_edge(tree, vertex):
            numbers.append(f"w{learned.index(int(tree.edge[vertex])) + 1}")
        vertex = int(tree.parent[vertex])
    return " ".join(numbers)


def _is_switch_edge(tree: TreeNetwork, vertex: int) -> bool:
    """Whether the edge to the parent only leads into its activation, with weight 1."""
    return tree.slope[tree.parent[vertex]] != 1


def _places(tree: TreeNetwork) -> np.ndarray:
    """Leaves side by side, every other vertex in the middle of its children."""
    x = np.zeros(len(tree.parent))
    children: dict[int, list[int]] = {}
    for child in range(1, len(tree.parent)):
        children.setdefault(int(tree.parent[child]), []).append(child)
    next_place = 0.0

    def place(vertex: int) -> None:
        nonlocal next_place
        below = children.get(vertex, [])
        if not below:
            x[vertex] = next_place
            next_place += 1
            return
        for child in below:
            place(child)
        x[vertex] = np.mean([x[child] for child in below])

    place(0)
    return x
