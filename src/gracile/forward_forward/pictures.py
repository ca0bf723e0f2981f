"""The figures of the laws of sparsity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

KINDS = {"positive": "C0", "negative": "C3"}


def sides(figure: Figure, left: np.ndarray, right: np.ndarray) -> Figure:
    """Both sides of theorem 1 for each sample, on one scale, sorted by the left one."""
    axes = figure.subplots()
    order = np.argsort(left)
    axes.plot(right[order], ".", ms=1.5, color="C1", label="|h|₂ A (right)", rasterized=True)
    axes.plot(left[order], color="C0", label="|h|₁ B (left)")
    axes.set(xlabel="sample, by its left side", ylabel="the two sides of the law", yscale="log")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    return figure


def shares_by_batch(figure: Figure, curves: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """Share of samples that do not satisfy theorem 1, against batch size."""
    axes = figure.subplots()
    for name, points in curves.items():
        sizes, shares = zip(*points, strict=True)
        axes.plot(sizes, [100 - 100 * share for share in shares], "o-", label=name)
    axes.axhline(0.02, color="0.5", ls="--", lw=1, label="published: over 99.98 % satisfy it")
    axes.set_xscale("log", base=2)
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="batch size", ylabel="samples that violate theorem 1, %")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    return figure


def agreement(figure: Figure, curves: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Share of samples for which law and step agree, against step size."""
    axes = figure.subplots()
    for name, points in curves.items():
        rates, shares = zip(*points, strict=True)
        axes.semilogx(rates, [100 * share for share in shares], "o-", label=name)
    axes.set(xlabel="step size (on the sum over the batch)", ylabel="law and step agree, % of samples")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    return figure


def shares_by_step(figure: Figure, runs: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> Figure:
    """Predicted and real share of samples that get sparser, by iteration; a row of panels per run, one per kind of samples.

    Args:
        figure: empty.
        runs: title to kind (``positive``, ``negative``) to ``predicted`` and ``real``, one number an iteration.
    """
    columns = max(len(kinds) for kinds in runs.values())
    grid = figure.subplots(len(runs), columns, squeeze=False, sharex=True, sharey=True)
    for row, (title, kinds) in zip(grid, runs.items(), strict=True):
        for axes, (kind, curves) in zip(row, kinds.items(), strict=False):
            real, predicted = (np.asarray(curves[name]) for name in ("real", "predicted"))
            axes.plot(100 * real, lw=0.5, alpha=0.35, color=KINDS[kind])
            axes.plot(_smooth(100 * real), color=KINDS[kind], label="real")
            axes.plot(_smooth(100 * predicted), "k--", lw=1, label="predicted")
            axes.axhline(50, color="0.6", lw=0.8)
            axes.set_title(f"{title}, {kind}", fontsize=9)
            axes.grid(alpha=0.3)
        row[0].set_ylabel("get sparser, %")
    for axes in grid[-1]:
        axes.set_xlabel("iteration")
    grid[0][0].legend(frameon=False)
    return figure


def over_training(figure: Figure, runs: Mapping[str, Sequence[Mapping[str, object]]]) -> Figure:
    """Mean Hoyer sparsity and share of dead units by iteration, a line per run and layer.

    Args:
        figure: empty.
        runs: name to records with ``iteration``, ``positive``, ``negative`` (mean sparsity) and ``dead`` (percent).
    """
    sparsity, dead = figure.subplots(1, 2)
    for number, (name, records) in enumerate(runs.items()):
        at = [record["iteration"] for record in records]
        for kind, line in (("positive", "-"), ("negative", ":")):
            values = [record.get(kind) for record in records]
            if values[0] is not None:
                sparsity.plot(at, values, line, color=f"C{number}", label=name if kind == "positive" else None)
        dead.plot(at, [record["dead"] for record in records], color=f"C{number}", label=name)
    sparsity.set(xlabel="iteration", ylabel="mean Hoyer sparsity (negatives dotted)")
    dead.set(xlabel="iteration", ylabel="dead units, %")
    for axes in (sparsity, dead):
        axes.grid(alpha=0.3)
    sparsity.legend(frameon=False, fontsize=8)
    return figure


def _smooth(values: np.ndarray) -> np.ndarray:
    """A running mean over a fortieth of the iterations."""
    wide = max(1, len(values) // 40)
    kernel = np.ones(wide) / wide
    padded = np.pad(values, (wide // 2, wide - 1 - wide // 2), mode="edge")
    return np.convolve(padded, kernel, mode="valid")
