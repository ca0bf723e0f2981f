"""One self-contained HTML page of a run, or of several beside each other."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from gracile.core.files import write_text
from gracile.report.reading import Arm, Run, read
from gracile.report.svg import Axis, Series, bars, lines, scatter, steps

STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


def write_report(folders: Sequence[Path], path: Path) -> Path:
    """Write the page of these runs.

    Args:
        folders: run folders, finished or not; one is shown whole, several are compared.
        path: the HTML file.

    Raises:
        InputError: a folder holds no run.
        StorageError: the page cannot be written.
    """
    write_text(path, render([read(folder) for folder in folders]))
    return path


def render(runs: Sequence[Run]) -> str:
    """The page as text, with everything it shows inside it."""
    body = _one(runs[0]) if len(runs) == 1 else _several(runs)
    title = runs[0].title if len(runs) == 1 else f"{len(runs)} runs compared"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )


def _one(run: Run) -> str:
    parts = [f"<h1>{escape(run.title)}</h1>", _lead(run), _criteria(run), _notes(run.notes)]
    if run.result is not None:
        parts.append(_section("Result", _table(run.result.get("rows", []))))
    if run.arms:
        parts += [_curves([run]), _front([run]), _layers(run), _histograms(run), _measured(run)]
    else:
        parts.append(_pictures(run))
    parts.append(
        _section("Recipe", f"<details><summary>as it was run</summary><pre>{escape(run.recipe_text)}</pre></details>")
    )
    parts.append(_section("Provenance", _provenance(run)))
    return "".join(parts)


def _several(runs: Sequence[Run]) -> str:
    parts = [f"<h1>{len(runs)} runs compared</h1>"]
    data = {str(run.data.get("name", run.kind)) for run in runs}
    warnings = []
    if len(data) > 1:
        warnings.append(
            f"These runs are on different data ({', '.join(sorted(data))}): their accuracies do not compare."
        )
    if len({run.kind for run in runs}) > 1:
        warnings.append("These runs are of different kinds.")
    parts.append(_notes(warnings))
    rows = [
        {"run": run.name, **row}
        for run in runs
        for row in (run.result or {}).get("rows", [{"arm": f"({_state(run)})"}])
    ]
    parts.append(_section("Results", _table(rows)))
    parts += [_front(runs), _curves(runs)]
    parts.append(_section("Provenance", "".join(f"<h3>{escape(run.name)}</h3>{_provenance(run)}" for run in runs)))
    return "".join(parts)


def _section(title: str, inside: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{inside}</section>" if inside else ""


def _figure(chart: str, caption: str = "") -> str:
    return f"<figure>{chart}" + (f"<figcaption>{escape(caption)}</figcaption>" if caption else "") + "</figure>"


def _state(run: Run) -> str:
    return str(run.status.get("status", "unknown"))


def _lead(run: Run) -> str:
    facts = [run.recipe.get("source"), f"size {run.recipe.get('size', 'full')}", str(run.status.get("time", ""))]
    text = f'<p class="lead">{escape(" · ".join(str(fact) for fact in facts if fact))}</p>'
    if run.result is None:
        text += (
            f'<p class="warning">This run is unfinished ({escape(_state(run))}); the page shows what there is. '
            f"Go on with <code>gracile run --resume --out {escape(str(run.path))}</code>.</p>"
        )
    return text


def _criteria(run: Run) -> str:
    found = (run.result or {}).get("accept", [])
    items = [
        f'<li class="{"met" if one["met"] else "missed"}"><b>{"met" if one["met"] else "missed"}</b> '
        f"{escape(str(one['claim']))}</li>"
        for one in found
    ]
    return f'<ul class="criteria">{"".join(items)}</ul>' if items else ""


def _notes(notes: Sequence[str]) -> str:
    return "".join(f'<p class="warning">{escape(note)}</p>' for note in dict.fromkeys(notes))


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if not columns:
        return ""
    head = "".join(f"<th>{escape(str(column))}</th>" for column in columns)
    body = "".join(
        "<tr>"
        + "".join(f"<td{_numeric(row.get(column))}>{escape(_cell(row.get(column)))}</td>" for column in columns)
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _numeric(value: Any) -> str:
    text = str(value).replace("±", "").replace(",", "").split()
    try:
        [float(part) for part in text]
    except ValueError:
        return ""
    return ' class="number"' if text else ""


def _colours(runs: Sequence[Run]) -> dict[tuple[str, str], int]:
    return {key: number for number, key in enumerate((run.name, arm.name) for run in runs for arm in run.arms)}


def _label(runs: Sequence[Run], run: Run, arm: Arm) -> str:
    return arm.name if len(runs) == 1 else f"{run.name} {arm.name}"


def _curves(runs: Sequence[Run]) -> str:
    colours = _colours(runs)
    charts = {
        "validation accuracy of what is kept, %": ("sparse_val_accuracy", "val_accuracy"),
        "training loss, nats": ("train_loss",),
        "multiply-adds left after removal, %": ("macs_left",),
        "exact zeros, %": ("sparsity",),
    }
    figures = []
    for label, keys in charts.items():
        factor = 1 if "nats" in label else 100
        series = []
        for run in runs:
            for arm in run.arms:
                if label == "exact zeros, %" and not arm.sparse:
                    continue
                for number, one in enumerate(arm.trained):
                    points = [
                        (row["epoch"], factor * value)
                        for row in one.metrics
                        if (value := _value(row, keys)) is not None
                    ]
                    points = [point for point in points if factor == 100 or point[1] > 0]
                    if points:
                        series.append(Series(_label(runs, run, arm), points, colours[run.name, arm.name], number > 0))
        if series:
            figures.append(_figure(lines(label, series, Axis("epoch"), Axis(label, log=factor == 1))))
    return _section("Learning curves", f'<div class="grid">{"".join(figures)}</div>' if figures else "")


def _value(row: Mapping[str, Any], keys: Sequence[str]) -> float | None:
    for key in keys:
        value = row.get(key)
        if isinstance(value, (int, float)) and math.isfinite(value):
            return float(value)
    return None


def _front(runs: Sequence[Run]) -> str:
    """Accuracy against what is left, with the arms that no other beats on both."""
    colours = _colours(runs)
    figures = []
    for key, unit in (
        ("macs_left", "multiply-adds left, % of the dense network"),
        ("parameters_left", "parameters left, %"),
    ):
        series, points = [], []
        for run in runs:
            for arm in run.arms:
                left, accuracy = arm.mean(key), arm.mean("accuracy")
                if left is None or accuracy is None:
                    continue
                spread = arm.spread("accuracy")
                text = f"{_label(runs, run, arm)}: {accuracy:.2f} % at {left:.1f} %" + (
                    "" if spread is None else f" (± {spread:.2f})"
                )
                series.append(
                    Series(_label(runs, run, arm), [(left, accuracy)], colours[run.name, arm.name], labels=[text])
                )
                points.append((left, accuracy))
        if series:
            front = pareto(points)
            chart = scatter("test accuracy against " + unit, series, Axis(unit), Axis("test accuracy, %"), front)
            figures.append(
                _figure(chart, f"Test accuracy against {unit}; the line joins what nothing else beats on both.")
            )
    return _section("Accuracy against size", f'<div class="grid">{"".join(figures)}</div>' if figures else "")


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (cost, gain) that no other point beats: no greater cost and a greater gain, in order of cost."""
    front: list[tuple[float, float]] = []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front


def _layers(run: Run) -> str:
    figures = []
    for arm in run.arms:
        layers = next((one.layers for one in arm.trained if one.layers), None)
        if not arm.sparse or layers is None:
            continue
        rows = [(row["name"], float(row["channels"]), float(row["channels_left"])) for row in layers["layers"]]
        caption = (
            f"{arm.name}: output channels that stay after physical removal, of those there were; parameters "
            f"{layers['parameters']:,} → {layers['parameters_left']:,}, multiply-adds {layers['macs']:,} → {layers['macs_left']:,}."
        )
        figures.append(_figure(bars(f"layer widths of {arm.name}", rows, "channels"), caption))
    return _section("Layer widths before and after", f'<div class="grid">{"".join(figures)}</div>' if figures else "")


def _histograms(run: Run) -> str:
    colours = _colours([run])
    weights, norms = [], []
    for arm in run.arms:
        layers = next((one.layers for one in arm.trained if one.layers), None)
        if layers is None:
            continue
        colour = colours[run.name, arm.name]
        magnitudes = layers["magnitudes"]
        low, high = magnitudes["log10_edges"]
        width = (high - low) / len(magnitudes["counts"])
        counts = [(10 ** (low + width * place), float(count)) for place, count in enumerate(magnitudes["counts"])]
        weights.append(Series(f"{arm.name}, {magnitudes['zeros']:,} zero", counts, colour))
        norms.append(_norm_counts(arm, [norm for row in layers["layers"] for norm in row["norms"]], colour))
    if not weights:
        return ""
    figures = [
        _figure(
            steps("weights by size", weights, Axis("|weight|", log=True), Axis("weights")),
            "Non-zero weights by absolute value; exact zeros are counted in the legend.",
        ),
        _figure(
            steps("channels by norm", norms, Axis("l2 norm of a channel's slice", log=True), Axis("channels")),
            "Input channels of every layer by the l2 norm of the weights that read them.",
        ),
    ]
    return _section("Weights and channel norms", f'<div class="grid">{"".join(figures)}</div>')


def _norm_counts(arm: Arm, norms: Sequence[float], colour: int) -> Series:
    zeros = sum(norm == 0 for norm in norms)
    places = [min(39, max(0, int((math.log10(norm) + 3) * 10))) for norm in norms if norm > 0]
    counts = [(10 ** (place / 10 - 3), float(places.count(place))) for place in range(40)]
    return Series(f"{arm.name}, {zeros:,} zero", counts, colour)


def _measured(run: Run) -> str:
    parts = []
    for arm in run.arms:
        found = arm.compressed
        if found is None:
            continue
        measured, accuracy = found["measured"], found.get("accuracy", {})
        sizes = {file["name"]: file["bytes"] / 1000 for file in measured["files"]}
        figures = []
        for threads in sorted({row["threads"] for row in measured["rows"]}):
            timed = [row for row in measured["rows"] if row["threads"] == threads and row["batch"] == 1]
            series = [
                Series(
                    row["name"],
                    [(sizes[row["name"]], row["p50"])],
                    number,
                    labels=[_variant(row, sizes[row["name"]], accuracy.get(row["name"], {}))],
                )
                for number, row in enumerate(timed)
            ]
            title = f"{arm.name}: median time of one sample, {threads} thread{'s' if threads > 1 else ''}"
            chart = scatter(title, series, Axis("file, kB"), Axis("milliseconds", low=0))
            figures.append(_figure(chart, title + "."))
        rows = [
            {
                "variant": row["name"],
                "threads": row["threads"],
                "batch": row["batch"],
                "p10 ms": row["p10"],
                "p50 ms": row["p50"],
                "times faster": row["faster"],
                "kB": sizes[row["name"]],
                **accuracy.get(row["name"], {}),
            }
            for row in measured["rows"]
        ]
        parts.append(
            f"<h3>{escape(arm.name)}</h3>" + _notes(measured.get("notes", []))
            + f'<div class="grid">{"".join(figures)}</div>' + _table(rows)
        )  # fmt: skip
    if not parts and any(arm.sparse for arm in run.arms) and run.result is not None:
        command = f"gracile compress {run.path} --int8"
        parts.append(
            f"<p>Not measured yet: <code>{escape(command)}</code> shrinks, exports and times these networks.</p>"
        )
    return _section("Size, latency, accuracy", "".join(parts))


def _variant(row: Mapping[str, Any], size: float, accuracy: Mapping[str, Any]) -> str:
    shares = ", ".join(f"{name} {value}" for name, value in accuracy.items())
    return f"{row['name']}: {row['p50']:.3g} ms, {size:.0f} kB" + (f", {shares}" if shares else "")


def _pictures(run: Run) -> str:
    figures = []
    for file in run.plots:
        data = base64.b64encode(file.read_bytes()).decode()
        name = file.stem.replace("_", " ").replace("-", " ")
        figures.append(_figure(f'<img alt="{escape(name)}" src="data:image/png;base64,{data}">', name))
    return _section("Pictures", f'<div class="grid">{"".join(figures)}</div>' if figures else "")


def _provenance(run: Run) -> str:
    environment = run.environment
    versions = environment.get("versions", {})
    rows = [{"what": key, "value": value} for key, value in environment.items() if key != "versions"]
    rows += [{"what": name, "value": version} for name, version in versions.items()]
    return _table(rows)
