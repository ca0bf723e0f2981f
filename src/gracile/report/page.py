"""The page of one run: all that is needed to judge it, in one file."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from gracile.report import charts, drawing, html
from gracile.report.answers import answered
from gracile.report.compressed import number
from gracile.report.data import shown
from gracile.report.reading import Arm, Run
from gracile.report.verdict import became, verdict

# Pictures are part of the page; beyond this many bytes in all they are named instead.
PICTURE_BYTES = 8_000_000
MEDIA = {".svg": "image/svg+xml", ".png": "image/png"}


def show(run: Run) -> str:
    """The page of a run, finished or not, as HTML."""
    named = [(arm.name, arm, style) for style, arm in enumerate(run.arms)]
    body = [
        _head(run),
        html.section("Result" if run.result is not None else "So far", result_table(run), _units(run)),
        html.section("Criteria fixed before the run", _criteria(run)),
        html.section("Data", *([] if run.described is None else shown(run.described))),
        html.section("Accuracy by class", answered(named)),
        html.section("Learning curves", charts.curves(named)),
        html.section("Dynamics", charts.watched(named)),
        html.section("Layer widths before and after", charts.widths(named)),
        html.section("Weights and channel norms", charts.histograms(named)),
        html.section("Size, latency and accuracy", _picture(run, named)),
        html.section("Robust accuracy", charts.attacked_tables(named)),
        html.section("Plots", _plots(run)),
        html.section("Named values", _values(run)),
        html.section("Recipe", html.details("The resolved recipe", html.code(run.recipe_text))),
        html.section("Where these numbers come from", environment_table({"value": run})),
    ]
    return html.page(f"{run.title} · {run.name}", "".join(body))


def _head(run: Run) -> str:
    """What the run was, what came of it, what to do next, and what its reader must know."""
    source = f" · {run.recipe['source']}" if run.recipe.get("source") else ""
    size = f" · size {run.recipe['size']}" if run.recipe.get("size", "full") != "full" else ""
    kicker = f"{run.recipe.get('name', run.name)} · {run.kind}{size}{source}"
    parts = [f'<header><p class="kicker">{html.escape(kicker)}</p><h1>{html.escape(run.title)}</h1></header>']
    found = verdict(run)
    words = [html.paragraph(one) for one in found.words]
    if found.collapsed:
        named = ", ".join(f"{arm} ({how})" for arm, how in found.collapsed.items())
        words.append(
            f'<p><span class="bad-word">Collapsed:</span> {html.escape(named)}; <a href="#warnings">see why</a>.</p>'
        )
    if found.command:
        words.append(html.paragraph(f"Next: `{found.command}` {found.why}."))
    parts.append(f'<div class="verdict">{"".join(words)}</div>' if words else "")
    missed = [one for one in (run.result or {}).get("accept", []) if not one.get("met")]
    if missed:
        claims = [f"{became(one)}: {one.get('claim', one.get('value'))}" for one in missed]
        parts.append(html.note(html.bullets(claims), bad=True))
    collapses = [f"{arm} has collapsed: {how}. {_why(how)}" for arm, how in found.collapsed.items()]
    told = [one for one in run.warnings if "has collapsed: " not in one]
    warned = [*collapses, *_warnings(run), *told]
    if warned:
        parts.append(f'<div id="warnings">{html.notes(warned, "Warnings")}</div>')
    parts.append(html.notes(run.notes, "Notes", routine=True))
    return "".join(parts)


# What a collapse means, and what to do about it.
WHY = {
    "constant output": "Every sample gets the same output, as where a layer has lost all its channels. Lower lam, or ask for a larger "
    "target, and train anew.",
    "one class only": "Every sample gets the same class. Lower lam or lr, or ask for a larger target, and train anew.",
    "at chance": "It is right no more often, averaged over the classes, than who guesses. Train longer, or lower lam or lr.",
    "half of the classes never": "It names at most half of the classes there are. Train longer, or ask for a larger target.",
}


def _why(how: str) -> str:
    return next((why for one, why in WHY.items() if one in how), "")


def _warnings(run: Run) -> list[str]:
    """What a reader would otherwise have to find out: zeros that buy nothing."""
    found = []
    for arm in run.arms:
        sparsity, macs = arm.mean("sparsity"), arm.mean("macs_left")
        if arm.sparse and sparsity is not None and macs is not None and sparsity >= 5 and macs > 99.5:
            found.append(
                f"{arm.name}: {sparsity:.1f} % of its parameters are zero, yet {macs:.1f} % of the multiply-adds stay: the zeros are "
                "spread over channels that are all needed, and dense kernels gain nothing from them."
            )
    return found


def result_table(run: Run) -> str:
    """The run's table, its arms set against the baseline and published numbers beside ours."""
    rows = [] if run.result is None else [row for row in run.result.get("rows", []) if isinstance(row, dict)]
    if not rows:
        rows = progress_rows(run)
    arms = {arm.name: arm for arm in run.arms}
    base = run.baseline
    place = None
    made = []
    for number_of_row, row in enumerate(rows):
        arm = arms.get(str(row.get("arm")))
        if arm is not None and base is not None and run.result is not None:
            row = against(row, arm, base)
            place = number_of_row if arm is base else place
        made.append(beside(row))
    return html.table(made, f"Results of {run.name}", base=place if len(made) > 1 else None)


def against(row: Mapping[str, Any], arm: Arm, base: Arm) -> dict[str, Any]:
    """A row with the accuracy's distance from the baseline, and what is physically left."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        found[key] = value
        if key == "accuracy %":
            found[f"points against {base.name}"] = (
                "baseline" if arm is base else charts.difference(arm, base, "accuracy")
            )
    left = arm.mean("parameters_left")
    if left is not None:
        found.setdefault("parameters left %", f"{left:.2f}")
    return found


def beside(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with each published number right after ours."""
    plain = lambda key: str(key).removesuffix(" %").replace("_", " ")
    published = {key: value for key, value in row.items() if str(key).startswith("published ")}
    found: dict[str, Any] = {}
    for key, value in row.items():
        if key in published:
            continue
        found[key] = value
        for other in published:
            if plain(str(other).removeprefix("published ")) == plain(key):
                found[other] = published[other]
    return found | {key: value for key, value in published.items() if key not in found}


def progress_rows(run: Run) -> list[dict[str, Any]]:
    """How far each arm of an unfinished run has come."""
    training = run.settings.get("training", {})
    unit = "epoch" if "epochs" in training else "step"
    rows = []
    for arm in run.arms:
        ended = len(arm.numbers("accuracy"))
        last = next((one.metrics[-1] for one in reversed(arm.trained) if one.metrics), {})
        kept = number(last.get("sparse_val_accuracy", last.get("val_accuracy")))
        accuracy, macs = arm.mean("accuracy"), number(last.get("macs_left"))
        state = "not begun" if not arm.trained else f"{ended} of {_seeds(run)} ended"
        rows.append(
            {
                "arm": arm.name,
                "seeds": state,
                unit: f"{last.get(unit, 0)} of {training.get(f'{unit}s')}",
                "validation accuracy %": None if kept is None else f"{100 * kept:.2f}",
                "test accuracy %": None if accuracy is None else f"{accuracy:.2f}",
                "MACs left %": None if macs is None else f"{100 * macs:.2f}",
            }
        )
    return rows


def _seeds(run: Run) -> int:
    return max(1, len(run.settings.get("seeds", [0])))


def _units(run: Run) -> str:
    if run.result is None or not run.arms:
        return ""
    seeds = _seeds(run)
    many = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    told = f"Test split after the last epoch, {many}. Loss in nats; “left” is what stays after physical removal of exact zeros."
    if any(str(key).startswith("published ") for row in run.result.get("rows", []) for key in row):
        told += " Published numbers stand in italics beside ours."
    return html.paragraph(told, soft=True)


def _criteria(run: Run) -> str:
    """Each criterion with what was found: met, missed or undecided."""
    result = run.result or {}
    items = []
    for one in result.get("accept", []):
        bounds = [
            f"{word} {one[key]:g}" for key, word in (("at_least", "at least"), ("at_most", "at most")) if key in one
        ]
        found = result.get("values", {}).get(one.get("value"))
        shown = "was not produced" if found is None else f"is {html.cell(found)}"
        word = became(one)
        word = f'<span class="{"good" if word == "met" else "bad-word"}">{word}</span>'
        told = html.inline(f"{one.get('claim', '')}: `{one.get('value')}` {shown}, asked {' and '.join(bounds)}")
        items.append(f"<li>{word} · {told}</li>")
    return f"<ul>{''.join(items)}</ul>" if items else ""


def _picture(run: Run, named: charts.Named) -> str:
    """Latency where it was measured, else what counts as its stand-in, and how to measure it."""
    timed = [
        charts.measured_picture(name, arm.measured)
        for name, arm, _ in named
        if arm.measured is not None and arm.measured.variants
    ]
    points, label, _ = charts.arm_points(named)
    if not points:
        return "".join(timed)
    front = drawing.pareto(points) if len(points) > 1 else []
    area = "A circle's area is the number of parameters left. " if all(one.size is not None for one in points) else ""
    caption = f"{area}Left and up is better; the dashed stairs are the front that no arm beats."
    title = "Accuracy against multiply-adds left"
    fronts = [front] if front else []
    drawn = html.charts(
        html.figure(drawing.scatter(title, points, label, "test accuracy, %", fronts=fronts, caption=caption))
    )
    unmeasured = html.paragraph("Latency was not measured yet.", soft=True) if run.kind == "train" and not timed else ""
    return "".join(timed) + drawn + charts.robust_picture(named) + unmeasured


def _plots(run: Run) -> str:
    """The run's pictures. They are images, not parts of the page: what stands in a file cannot act in it."""
    figures, left_out, used = [], [], 0
    for path in run.plots:
        content = path.read_bytes()
        used += len(content)
        if used > PICTURE_BYTES:
            left_out.append(path.name)
            continue
        encoded = base64.b64encode(content).decode()
        name = html.escape(path.stem)
        image = f'<img{_least_width(content)} alt="Plot {name} of this run" src="data:{MEDIA[path.suffix]};base64,{encoded}">'
        box = f'<div class="scroll" role="region" tabindex="0" aria-label="Plot {name}">{image}</div>'
        figures.append(f"<figure class=plot><b>{name}</b>{box}</figure>")
    told = f"Too large for this page, in plots/: {', '.join(left_out)}." if left_out else ""
    return "".join(figures) + (html.paragraph(told) if told else "")


def _least_width(content: bytes) -> str:
    """A drawing scrolls rather than have its words smaller than a pixel for each of their points."""
    found = re.search(rb'viewBox="0 0 ([\d.]+) ', content[:2000])
    return f' style="max-width:max(100%,{float(found[1]):.0f}px)"' if found else ""


def _values(run: Run) -> str:
    """Values by name, where they are more than the table of arms tells."""
    values = (run.result or {}).get("values", {})
    if run.arms or not values:
        return ""
    rows = [{"value": key, "found": value} for key, value in values.items()]
    return html.details(f"{len(rows)} values", html.table(rows, "Named values"))


def environment_table(names: Mapping[str, Run]) -> str:
    """Commit, versions and machine of each run, a column per run under its name."""
    facts = {name: _facts(run) for name, run in names.items()}
    keys = list(dict.fromkeys(key for found in facts.values() for key in found))
    rows = [{"what": key, **{name: found.get(key, "") for name, found in facts.items()}} for key in keys]
    return html.table(rows, "Environment")


def _facts(run: Run) -> dict[str, str]:
    # result.json holds the environment of the end; environment.json that of the last start.
    found = (run.result or {}).get("environment") or run.environment
    facts = {"folder": str(run.path)}
    if run.status:
        facts["status"] = (
            f"{'done' if run.result is not None else run.status.get('status')}, {run.status.get('time', '')}"
        )
    commit = found.get("commit")
    facts["commit"] = commit or ("not from a checkout" if found else "")
    for key in ("device", "processor", "cores", "threads", "python", "platform"):
        if found.get(key) is not None:
            facts[key] = str(found[key])
    facts |= {str(name): str(version) for name, version in found.get("versions", {}).items()}
    return {key: value for key, value in facts.items() if value}
