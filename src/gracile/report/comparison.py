"""The page of several runs: one table, curves laid over each other, accuracy against multiply-adds with its front."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gracile.report import charts, drawing, html
from gracile.report.page import against, beside, environment_table, progress_rows, result_table
from gracile.report.reading import Run

MOST_DIFFERENCES = 80


def compare(runs: Sequence[Run]) -> str:
    """The page of several runs, as HTML."""
    names = _names(runs)
    named, groups = [], {}
    for run in runs:
        for arm in run.arms:
            entry = (f"{names[run.path]}: {arm.name}", arm, len(named))
            named.append(entry)
            groups.setdefault(_data_key(run), []).append(entry)
    others = [run for run in runs if not run.arms]
    separate = "".join(
        f"<h3>{html.escape(names[run.path])}</h3>{html.paragraph(run.title)}{result_table(run)}" for run in others
    )
    title = f"{len(runs)} runs compared"
    head = (
        f'<header><p class="kicker">{html.escape(", ".join(names.values()))}</p><h1>{html.escape(title)}</h1></header>'
        + html.note(html.bullets(_warnings(runs, names)), bad=True)
        + html.notes([f"{names[run.path]}: {one}" for run in runs for one in run.warnings], "Warnings")
        + html.notes([f"{names[run.path]}: {one}" for run in runs for one in run.notes], "Notes", routine=True)
    )
    body = [
        head,
        html.section("All arms", _table(runs, names)),
        html.section("Accuracy against multiply-adds", _front(list(groups.values()))),
        html.section("Learning curves", charts.curves(named)),
        html.section("Weights and channel norms", charts.histograms(named)),
        html.section("Runs without arms", separate),
        html.section("What differs", _differences(runs, names)),
        html.section("Where these numbers come from", environment_table({names[run.path]: run for run in runs})),
    ]
    return html.page(title, "".join(body))


def _names(runs: Sequence[Run]) -> dict[Path, str]:
    """The folders' names, with as much of their parents as tells them apart."""
    parts = {run.path: run.path.resolve().parts for run in runs}
    names = {}
    for path, own in parts.items():
        depth = 1
        while depth < len(own) and any(other[-depth:] == own[-depth:] for key, other in parts.items() if key != path):
            depth += 1
        names[path] = "/".join(own[-depth:])
    return names


def _data_key(run: Run) -> str:
    return json.dumps(run.data, sort_keys=True, default=str)


def _warnings(runs: Sequence[Run], names: dict[Path, str]) -> list[str]:
    """What makes runs less comparable than a common table suggests."""
    found = [
        f"{names[run.path]} is not finished; what is there so far is shown. Go on with `gracile run --resume --out {run.path}`."
        for run in runs
        if run.result is None
    ]
    found += [
        f"{arm.name} of {names[run.path]} has collapsed: {arm.collapsed}."
        for run in runs
        for arm in run.arms
        if arm.collapsed
    ]
    kinds = dict.fromkeys(run.kind for run in runs)
    if len(kinds) > 1:
        found.append(
            f"The runs are of different kinds ({', '.join(kinds)}): their numbers do not answer the same question."
        )
    with_arms = [run for run in runs if run.arms]
    data = dict.fromkeys(_data_key(run) for run in with_arms)
    if len(data) > 1:
        told = dict.fromkeys(str(run.data.get("name", "?")) for run in with_arms)
        same = "the same data prepared differently" if len(told) == 1 else "different data"
        found.append(
            f"The runs use {same} ({', '.join(told)}): accuracies are not comparable, and each has a front of its own."
        )
    baselines = dict.fromkeys(
        json.dumps(run.settings.get("training"), sort_keys=True, default=str) for run in with_arms
    )
    if len(baselines) > 1:
        found.append("The runs are trained differently; see what differs below.")
    return found


def _table(runs: Sequence[Run], names: dict[Path, str]) -> str:
    rows: list[dict[str, Any]] = []
    for run in runs:
        if not run.arms:
            continue
        arms = {arm.name: arm for arm in run.arms}
        done = [] if run.result is None else run.result.get("rows", [])
        for row in done or progress_rows(run):
            arm, base = arms.get(str(row.get("arm"))), run.baseline
            if arm is not None and base is not None and done:
                row = against(row, arm, base)
                macs = arm.macs_left()
                if macs is not None:
                    row["multiply-adds left"] = int(macs)
                # One column for all runs, whatever their baselines are called.
                row = {
                    ("points against its baseline" if key.startswith("points against") else key): value
                    for key, value in row.items()
                }
            rows.append({"run": names[run.path], **beside(row)})
    return html.table(rows, "All arms of all runs")


def _front(groups: Sequence[charts.Named]) -> str:
    """The scatter with a front for each kind of data."""
    every = [entry for group in groups for entry in group]
    points, label, absolute = charts.arm_points(every)
    if not points:
        return html.paragraph("No arm of these runs has ended, so there is nothing to draw yet.")
    by_name = {point.label: point for point in points}
    fronts, told = [], []
    for group in groups:
        own = [by_name[name] for name, _, _ in group if name in by_name]
        front = drawing.pareto(own)
        if len(own) > 1:
            fronts.append(front)
            ordered = ", ".join(point.label for point in sorted(front, key=lambda point: point.x))
            told.append(f"On the front: {ordered}.")
    wide = absolute and max(point.x for point in points) > 20 * max(min(point.x for point in points), 1)
    caption = (
        "Left and up is better; the dashed stairs are the front that no arm beats. Bars are standard deviations over seeds"
        + (", circle areas the parameters left" if all(point.size is not None for point in points) else "")
        + "."
    )
    title = "Accuracy against multiply-adds left"
    log = wide and min(point.x for point in points) > 0
    chart = drawing.scatter(title, points, label, "test accuracy, %", fronts=fronts, log=log, caption=caption)
    missing = [name for name, _, _ in every if name not in by_name]
    if missing:
        told.append(f"Not drawn, as they have not ended or do not say what is left: {', '.join(missing)}.")
    legend = html.legend({point.label: point.style for point in points})
    drawn = html.charts(html.figure(chart))
    return legend + drawn + html.bullets(told)


def _differences(runs: Sequence[Run], names: dict[Path, str]) -> str:
    """The settings that are not the same in all runs, a column per run."""
    flat = {run.path: _flat({key: value for key, value in run.recipe.items() if key != "accept"}) for run in runs}
    keys = list(dict.fromkeys(key for one in flat.values() for key in one))
    rows = []
    for key in keys:
        values = [flat[run.path].get(key, "not set") for run in runs]
        if any(value != values[0] for value in values):
            rows.append({"setting": key, **{names[run.path]: value for run, value in zip(runs, values, strict=True)}})
    if not rows:
        return html.paragraph("The recipes are the same in every setting.")
    more = len(rows) - MOST_DIFFERENCES
    rest = html.paragraph(f"{more} further settings differ; see each run's recipe.toml.") if more > 0 else ""
    return html.table(rows[:MOST_DIFFERENCES], "Settings that differ") + rest


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = str(value)
    return found
