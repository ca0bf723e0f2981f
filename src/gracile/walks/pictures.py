"""Pictures of walks; matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gracile.core.figures import new_figure, save
from gracile.walks.rates import Point, Rate, fitted
from gracile.walks.walk import SenileWalk

COLOURS = tuple(f"C{number}" for number in range(10))


def _figure(width: float, height: float, columns: int = 1):
    figure = new_figure(width, height)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def rates(path: Path, dim: int, curves: Mapping[str, tuple[Rate, Sequence[Point]]], title: str) -> Path:
    """Draw nu (d = 1) or nu - nu_0 (d >= 2) against the derived axis, with the predicted lines, and the quotient of both.

    Args:
        path: the file, ``.svg`` or ``.png``.
        dim: d.
        curves: law to its rate and exact points.
        title: above the picture.
    """
    axes_names = list(dict.fromkeys(rate.axis for rate, _ in curves.values()))
    figure, axes = _figure(4.0 * (len(axes_names) + 1), 4.2, len(axes_names) + 1)
    figure.suptitle(title, fontsize=11)
    above = "ν(δ)" if dim == 1 else "ν(δ) − ν(0)"
    quotient = above if dim == 1 else f"({above})"
    for colour, (name, (rate, points)) in zip(COLOURS * 3, curves.items(), strict=False):
        axis = axes[axes_names.index(rate.axis)]
        x, y = np.array([p.x for p in points]), np.array([p.gain for p in points])
        words = f"{name}: slope {fitted(points[-3:]):.4g}, predicted {rate.slope:.4g}"
        axis.plot(x, y, "o", ms=4, color=colour, label=words)
        line = np.geomspace(x.min(), x.max(), 200)
        axis.plot(line, rate.slope * line, "-", lw=1.2, color=colour)
        axes[-1].plot(
            np.log10([p.decades for p in points]), y / x / rate.slope, "o-", ms=3.5, lw=1, color=colour, label=name
        )
    for axis, name in zip(axes, axes_names, strict=False):
        axis.set_xlabel(_pretty(name))
        axis.set_ylabel(above)
        if dim > 1 or max(p.x for _, points in curves.values() for p in points) > 20 * min(
            p.x for rate, points in curves.values() if rate.axis == name for p in points
        ):
            axis.set_xscale("log")
            axis.set_yscale("log")
        axis.legend(fontsize=8)
        axis.grid(alpha=0.25)
    last = axes[-1]
    last.axhline(1, color="black", lw=0.8, ls="--")
    # Decades reach 1e256, beyond what a logarithmic axis of doubles can label: their logarithm, plain to 3, is the axis.
    furthest = max(np.log10(p.decades) for _, points in curves.values() for p in points)
    last.set_xscale("symlog", linthresh=3)
    last.set_xlim(-0.2, max(1.0, 1.05 * furthest))
    marks = [
        mark
        for mark in (0, 0.5, 1, 2, 3, 10, 30, 100, 250)
        if mark <= 1.05 * furthest and (mark != 0.5 or furthest < 2)
    ]
    last.set_xticks(marks, [f"{mark:g}" for mark in marks])
    last.minorticks_off()
    last.set_xlabel("log₁₀(−log₁₀ δ)")
    last.set_ylim(0, 3)
    last.set_ylabel(f"{quotient} / (predicted slope × axis)")
    last.legend(fontsize=8)
    last.grid(alpha=0.25)
    return save(figure, path)


def _pretty(name: str) -> str:
    return name.replace("delta", "δ").replace("^2", "²")


def trajectories(path: Path, walks: Mapping[str, SenileWalk], steps: int, seed: int) -> Path:
    """Trajectories in the plane, one panel per walk, all from the same seed.

    Args:
        path: the file, ``.svg`` or ``.png``.
        walks: title to a walk in d = 2.
        steps: how many.
        seed: of all.
    """
    figure, axes = _figure(4.2 * len(walks), 4.4, len(walks))
    for axis, (title, walk) in zip(axes, walks.items(), strict=True):
        x = trajectory(walk, steps, seed)
        axis.plot(x[:, 0], x[:, 1], lw=0.5, color=COLOURS[0])
        axis.plot(*x[0], "o", ms=5, color=COLOURS[2], label="start")
        axis.plot(*x[-1], "s", ms=5, color=COLOURS[1], label="end")
        axis.set_title(title, fontsize=10)
        axis.set_aspect("equal", adjustable="datalim")
        axis.legend(fontsize=8)
        axis.grid(alpha=0.25)
    return save(figure, path)


def trajectory(walk: SenileWalk, steps: int, seed: int) -> np.ndarray:
    """(steps + 1, d) positions of one walker, step by step."""
    from gracile.walks import plain

    path = np.zeros((steps + 1, walk.dim), dtype=np.int64)

    def record(index: int, x: np.ndarray) -> None:
        path[index + 1] = x[0]

    rng = np.random.default_rng(seed)
    plain.run(walk.staying, 1, np.arange(1, steps + 1), rng, record, by_walk=walk.clock == "walk")
    return path


def growth(path: Path, times: np.ndarray, mean_square: np.ndarray, error: np.ndarray, nu: float, title: str) -> Path:
    """Mean square displacement over time, divided by time, beside the exact constant."""
    figure, (axis,) = _figure(5.6, 4.0)
    label = "simulated, ± 1 standard error"
    axis.errorbar(times, mean_square / times, yerr=error / times, fmt="o", ms=4, color=COLOURS[0], label=label)
    axis.axhline(nu, color=COLOURS[1], lw=1.2, label=f"exact ν = {nu:.6g}")
    axis.set_xscale("log")
    axis.set_xlabel("steps n")
    axis.set_ylabel("E|S_n|² / n")
    axis.set_title(title, fontsize=10)
    axis.legend(fontsize=8)
    axis.grid(alpha=0.25)
    return save(figure, path)
