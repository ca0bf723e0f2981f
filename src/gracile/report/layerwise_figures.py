"""Figures of the layer-wise recipes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from gracile.core.figures import new_figure

Numbers = Sequence[Mapping[str, Any]]


def redense_curves(groups: Sequence[Numbers], title: str) -> Figure:
    """Training loss, testing loss and testing accuracy against the epoch, means over seeds; dotted, the control.

    Args:
        groups: one list of arms per line, an arm a seed: ``loss``, ``matrix``, ``m``, ``losses`` by epoch, ``curve`` of
            testing loss and accuracy, and the same two of the ``control_``.
        title: above.
    """
    figure = new_figure(13.0, 4.2)
    panels = figure.subplots(1, 3)
    several = len({group[0]["loss"] for group in groups}) > 1
    for number, group in enumerate(groups):
        first = group[0]
        label = f"{first['loss']}" if several else f"{first['matrix']} R, m = {first['m']}"
        _redense(panels, group, "", "-", label, f"C{number}")
        if several:
            _redense(panels, group, "control_", ":", f"{label} control", f"C{number}")
        elif not number:
            # The control does not depend on m: one line per loss is enough.
            _redense(panels, group, "control_", ":", "control", "black")
    for panel, name in zip(panels, ("Training loss", "Testing loss", "Testing accuracy [%]"), strict=True):
        panel.set(title=name, xlabel="epoch of ReDense")
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def _redense(panels: Any, group: Numbers, prefix: str, style: str, label: str, colour: str) -> None:
    across = lambda columns: [statistics.fmean(values) for values in zip(*columns, strict=True)]
    lines = [across(arm[f"{prefix}losses"] for arm in group)]
    lines += [across([row[place] for row in arm[f"{prefix}curve"]] for arm in group) for place in (0, 1)]
    for panel, line in zip(panels, lines, strict=True):
        panel.plot(line, style, color=colour, label=label, linewidth=1.4)


def rho_sweep(
    sweeps: Mapping[str, Mapping[str, Sequence[Sequence[float]]]], rhos: Mapping[str, Sequence[float]]
) -> Figure:
    """Accuracy of each learner against rho, a panel per data set, with the published threshold at 2.

    Args:
        sweeps: panel's title to learner to the accuracies of all trials per rho; ``information`` is drawn dashed, in
            nats.
        rhos: panel's title to nodes per input.
    """
    columns = min(3, len(sweeps))
    lines = math.ceil(len(sweeps) / columns)
    figure = new_figure(4.6 * columns, 3.5 * lines)
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for panel, (title, learners) in zip(panels, sweeps.items(), strict=False):
        for number, (learner, trials) in enumerate(learners.items()):
            means = [statistics.fmean(values) for values in trials]
            if learner == "information":
                other = panel.twinx()
                other.plot(rhos[title], means, "k--", linewidth=1)
                other.set_ylabel("I(y; t) [nats], dashed")
                continue
            bars = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in trials]
            panel.errorbar(
                rhos[title], means, bars, color=f"C{number}", marker="o", markersize=3, capsize=2, label=learner.upper()
            )
        panel.axvline(2, color="grey", linestyle=":", linewidth=1)
        panel.set_xscale("log", base=2)
        panel.set_xticks(rhos[title], [f"{rho:g}" for rho in rhos[title]])
        panel.minorticks_off()
        panel.set_title(title, fontsize=9)
        panel.set(xlabel="rho = n / P", ylabel="test accuracy [%]")
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8, loc="lower right")
    for panel in panels[len(sweeps) :]:
        panel.set_visible(False)
    return figure


def accuracy_by_bytes(arms: Mapping[str, Mapping[str, Any]], target: float) -> Figure:
    """Validation accuracy against bytes: the baselines' curves and a point per arm.

    Args:
        arms: name to ``bytes`` and ``validation`` in percent, and of a baseline the ``curve`` of both.
        target: the accuracy to reach, percent.
    """
    figure = new_figure(9.0, 4.4)
    axes = figure.subplots()
    for number, (name, found) in enumerate(arms.items()):
        points = [row for row in found.get("curve", [found]) if row["bytes"]]
        label, style = (name, "-") if "curve" in found else (f"SSFN, {name}", "o")
        sent = [row["bytes"] / 1e6 for row in points]
        axes.semilogx(sent, [row["validation"] for row in points], style, color=f"C{number}", label=label)
    axes.axhline(target, color="0.6", linewidth=0.8)
    axes.set(xlabel="MB sent over all links", ylabel="validation accuracy, %", ylim=(target - 15, target + 3))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure
