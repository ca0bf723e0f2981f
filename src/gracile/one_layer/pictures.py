"""Pictures of the one-layer theory; matplotlib is imported when one is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gracile.core.figures import new_figure, save
from gracile.core.power_law import exponent
from gracile.one_layer.iterations import Trajectories

COLOURS = tuple(f"C{number}" for number in range(10))


def _figure(width: float, height: float, columns: int):
    figure = new_figure(width, height)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _ticks(axis, x: Sequence[float]) -> None:
    """Label a logarithmic axis at its points, if they are few, else at the decades alone."""
    axis.minorticks_off()
    if len(x) <= 6:
        axis.set_ticks(x, labels=[f"{at:.0f}" if at > 100 else f"{at:.3g}" for at in x])


def trajectories(path: Path, seen: Mapping[str, Trajectories], title: str, delta: float = math.nan) -> Path:
    """L_beta, angle, distance and support over the steps: the median of the starts, and from the least to the largest.

    Args:
        path: the file, ``.svg`` or ``.png``.
        seen: what was seen, by label.
        title: above the picture.
        delta: the theorem's delta, drawn beside the angle with pi - delta.
    """
    panels = (
        ("lagrangian", "Lagrangian $L_β(w, u)$", True),
        ("theta", "angle to w*, radians", True),
        ("distance", "|w − w*|", True),
        ("support", "support recovered", False),
    )
    figure, axes = _figure(15.0, 3.9, len(panels))
    figure.suptitle(title, fontsize=11)
    for axis, (name, label, log) in zip(axes, panels, strict=True):
        for colour, (words, one) in zip(COLOURS, seen.items(), strict=False):
            values, steps = getattr(one, name).numpy(), one.steps.numpy()
            axis.fill_between(steps, values.min(1), values.max(1), color=colour, alpha=0.18, lw=0)
            axis.plot(steps, np.median(values, axis=1), color=colour, lw=1.4, label=words)
        axis.set_xlabel("steps")
        axis.set_ylabel(label)
        axis.set_xscale("symlog", linthresh=1)
        if log:
            axis.set_yscale("log")
        else:
            axis.set_ylim(0, 1.05)
        axis.grid(alpha=0.25)
    if not math.isnan(delta):
        axes[1].axhline(delta, color="black", lw=0.8, ls="--", label=f"δ = {delta:.3g}")
        axes[1].axhline(math.pi - delta, color="black", lw=0.8, ls=":", label="π − δ")
        axes[1].legend(fontsize=8)
    axes[0].legend(fontsize=8, title="median; least to largest", title_fontsize=8)
    return save(figure, path)


def probabilities(path: Path, panels: Mapping[str, Sequence[tuple[float, float, float, float]]], title: str) -> Path:
    """How often the hypotheses hold of a random start, exact and measured, and how often the conclusions do.

    Args:
        path: the file, ``.svg`` or ``.png``.
        panels: by the axis's name, points (x, exact and measured share of hypotheses, share of conclusions).
        title: above the picture.
    """
    figure, axes = _figure(5.4 * len(panels), 4.2, len(panels))
    figure.suptitle(title, fontsize=11)
    for axis, (name, points) in zip(axes, panels.items(), strict=True):
        x, exact, measured, concluded = np.array(points).T
        axis.plot(x, exact, "-", lw=1.2, color=COLOURS[0], label="hypotheses hold, exact")
        axis.plot(x, measured, "o", ms=5, color=COLOURS[0], label="hypotheses hold, measured")
        axis.plot(x, concluded, "s-", ms=4, lw=1.2, color=COLOURS[1], label="conclusions hold, measured")
        axis.set_xscale("log")
        _ticks(axis.xaxis, x)
        axis.set_xlabel(name)
        axis.set_ylabel("share of random starts")
        axis.set_ylim(-0.03, 1.05)
        axis.legend(fontsize=8)
        axis.grid(alpha=0.25)
    return save(figure, path)


def powers(path: Path, panels: Mapping[str, tuple[str, str, Mapping[str, Sequence[tuple[float, float]]]]]) -> Path:
    """Lines on two logarithmic axes, each with its fitted exponent.

    Args:
        path: the file, ``.svg`` or ``.png``.
        panels: by title, the names of both axes and, by label, points.
    """
    figure, axes = _figure(5.4 * len(panels), 4.2, len(panels))
    for axis, (title, (across, up, lines)) in zip(axes, panels.items(), strict=True):
        for colour, (name, points) in zip(COLOURS, lines.items(), strict=False):
            x, y = np.array(points, dtype=float).T
            axis.loglog(x, y, "o-", ms=4, lw=1.2, color=colour, label=f"{name}: exponent {exponent(points):.3f}")
        _ticks(axis.xaxis, [x for x, _ in next(iter(lines.values()))])
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(across)
        axis.set_ylabel(up)
        axis.legend(fontsize=8)
        axis.grid(alpha=0.25)
    return save(figure, path)
