"""What the page of one run and that of several draw alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gracile.report import drawing, html
from gracile.report.compressed import Attacked, Measured, number
from gracile.report.reading import Arm

Named = Sequence[tuple[str, Arm, int]]
"""Arms as they are called on the page, each with the number of its colour."""

Value = Callable[[Mapping[str, Any]], float | None]


def curves(arms: Named) -> str:
    """Learning curves: accuracy of what is kept, loss, zeros, and what would be left."""
    drawn = [
        ("Validation accuracy", "accuracy of what is kept, %", _accuracy, False, None, None),
        ("Training loss", "loss, nats", lambda row: number(row.get("train_loss")), True, None, None),
        ("Exact zeros", "weights that are zero, %", _percent("sparsity"), False, 0.0, 100.0),
        ("Zero channels", "channels that are zero, %", _percent("channel_sparsity"), False, 0.0, 100.0),
        ("Multiply-adds left", "left after removal, %", _percent("macs_left"), False, 0.0, 105.0),
        ("Parameters left", "left after removal, %", _percent("parameters_left"), False, 0.0, 105.0),
    ]
    at = _abscissa(arms)
    return _told(
        arms,
        [
            html.figure(drawing.curves(title, _lines(arms, value, at), at, label, log=log, low=low, high=high))
            for title, label, value, log, low, high in drawn
        ],
    )


def watched(arms: Named) -> str:
    """What monitors recorded while the arms were trained, a small chart per series; empty where there were none.

    Titles and axes are those that ``metrics.jsonl`` tells: the first row with a monitor's numbers holds them.
    """
    rows = [row for _, arm, _ in arms for one in arm.trained for row in one.metrics]
    series: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        told = row.get("series")
        if isinstance(told, dict):
            series |= {key: one for key, one in told.items() if isinstance(one, dict)}
    at = _abscissa(arms)
    figures = []
    for key, one in series.items():
        value = lambda row, key=key: number(row.get(key))
        title, log = str(one.get("title", key)), bool(one.get("log"))
        lines, axis, caption = _lines(arms, value, at), str(one.get("axis", "")), str(one.get("caption", ""))
        figures.append(html.figure(drawing.curves(title, lines, at, axis, log=log, caption=caption)))
    return _told(arms, figures)


def _told(arms: Named, figures: Sequence[str]) -> str:
    """Charts of curves with their legend and how to read them; nothing without charts."""
    found = html.charts(*figures)
    if not found:
        return ""
    several = any(len(arm.trained) > 1 for _, arm, _ in arms)
    seeds = " The first seed is drawn in full, further seeds faintly." if several else ""
    told = f"Hover over a curve for its name and where it ends.{seeds}"
    return html.legend({name: style for name, _, style in arms}) + found + html.paragraph(told, soft=True)


def _abscissa(arms: Named) -> str:
    """``step`` where records are made within epochs and every row tells it; else ``epoch``."""
    rows = [row for _, arm, _ in arms for one in arm.trained for row in one.metrics]
    within = any((at := number(row.get("epoch"))) is not None and at != int(at) for row in rows)
    return "step" if within and all(number(row.get("step")) is not None for row in rows) else "epoch"


def _lines(arms: Named, value: Value, abscissa: str) -> list[drawing.Curve]:
    lines = []
    for name, arm, style in arms:
        for place, one in enumerate(arm.trained):
            points = [
                (float(row[abscissa]), at)
                for row in one.metrics
                if number(row.get(abscissa)) is not None and (at := value(row)) is not None
            ]
            label = name if len(arm.trained) == 1 else f"{name}, seed {one.seed}"
            lines.append(drawing.Curve(label, points, style, faint=place > 0))
    return lines


def _accuracy(row: Mapping[str, Any]) -> float | None:
    """What is kept counts: under a splitting the trained weights themselves are not what is delivered."""
    found = number(row.get("sparse_val_accuracy", row.get("val_accuracy")))
    return None if found is None else 100 * found


def _percent(key: str) -> Value:
    def share(row: Mapping[str, Any]) -> float | None:
        found = number(row.get(key))
        return None if found is None else 100 * found

    return share


def widths(arms: Named) -> str:
    """Layer widths before and after, one drawing an arm, and every layer's numbers to unfold."""
    figures, tables = [], []
    for name, arm, style in arms:
        one = next((one for one in arm.trained if one.layers), None)
        if one is None or one.layers is None:
            continue
        layers = [layer for layer in one.layers.get("layers", []) if isinstance(layer, dict)]
        names = _short([str(layer.get("name", "")) for layer in layers])
        seed = f", seed {one.seed}" if len(arm.trained) > 1 else ""
        tables.append(html.details(f"Every layer of {name}{seed}", _layer_table(names, layers, name)))
        rows = [
            (short, int(layer["channels"]), int(layer["channels_left"]))
            for short, layer in zip(names, layers, strict=True)
            if number(layer.get("channels")) is not None and number(layer.get("channels_left")) is not None
        ]
        gone = sum(before - left for _, before, left in rows)
        if arm.sparse and rows:
            total = sum(before for _, before, _ in rows)
            caption = f"{gone:,} of {total:,} channels go." if gone else "Every channel stays."
            figures.append(html.figure(drawing.bars(f"Layer widths of {name}{seed}", rows, style, caption)))
    if not figures:
        return "".join(tables)
    told = (
        "Channels that each layer makes: the outline is the width before, the bar what stays once every channel "
        "that no output depends on is removed."
    )
    return html.paragraph(told) + html.charts(*figures) + "".join(tables)


def _layer_table(names: Sequence[str], layers: Sequence[Mapping[str, Any]], arm: str) -> str:
    rows = [
        {
            "layer": name,
            "inputs": layer.get("inputs"),
            "inputs left": layer.get("inputs_left"),
            "channels": layer.get("channels"),
            "channels left": layer.get("channels_left"),
            "weights": layer.get("parameters"),
            "weights left": layer.get("parameters_left"),
            "not zero": layer.get("nonzero"),
        }
        for name, layer in zip(names, layers, strict=True)
    ]
    return html.table(rows, f"Layers of {arm}")


def _short(names: Sequence[str]) -> list[str]:
    """Names without the modules that all of them lie in."""
    parts = [name.split(".") for name in names]
    shared = 0
    while parts and all(len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    return [".".join(part[shared:]) for part in parts]


def histograms(arms: Named) -> str:
    """Magnitudes of weights and norms of channels: the gap between what is kept and what is zero."""
    weights, norms = [], []
    edges = (-6.0, 1.0)
    found_norms = {}
    for name, arm, style in arms:
        one = next((one for one in arm.trained if one.layers), None)
        if one is None or one.layers is None:
            continue
        magnitudes = one.layers.get("magnitudes", {})
        counts, zeros = magnitudes.get("counts", []), magnitudes.get("zeros", 0)
        total = sum(counts) + zeros
        if total:
            edges = tuple(magnitudes["log10_edges"])
            weights.append((name, style, [100 * count / total for count in counts], 100 * zeros / total))
        found_norms[name] = (style, [norm for layer in one.layers.get("layers", []) for norm in layer.get("norms", [])])
    span, bins = (-5.0, 2.0), 70
    for name, (style, values) in found_norms.items():
        if not values:
            continue
        counts = [0] * bins
        for value in values:
            if value > 0:
                counts[drawing.bin_of(value, span, bins)] += 1
        zero = 100 * sum(value == 0 for value in values) / len(values)
        norms.append((name, style, [100 * count / len(values) for count in counts], zero))
    drawn = [
        html.figure(drawing.histogram(title, ends, found, axis, caption) if found else None)
        for title, ends, found, axis, caption in (
            (
                "Weights",
                edges,
                weights,
                "magnitude of a weight",
                "Of convolutions and linear layers, exact zeros apart.",
            ),
            (
                "Channel norms",
                span,
                norms,
                "l2 norm of a channel's weights",
                "For each input channel of each layer, the l2 norm of the weights that read it.",
            ),
        )
    ]
    found = html.charts(*drawn)
    if not found:
        return ""
    several = any(len(arm.trained) > 1 for _, arm, _ in arms)
    first = "They are those of the first seed. " if several else ""
    told = (
        f"{first}Bars on the left: the share that is exactly zero. Outlines: percent of all in each bin, a tenth of a decade "
        "wide. Both are of what is kept at the end."
    )
    return html.legend({name: style for name, _, style in arms}) + found + html.paragraph(told, soft=True)


def arm_points(arms: Named) -> tuple[list[drawing.Point], str, bool]:
    """Arms with accuracy and multiply-adds left, as points; the name of the abscissa; whether it is absolute.

    Multiply-adds count absolutely where every arm tells them, since networks may differ; as a share of each own dense
    network else.
    """
    ended = [(name, arm, style) for name, arm, style in arms if arm.mean("accuracy") is not None]
    told = [arm for _, arm, _ in ended if arm.mean("macs_left") is not None or arm.macs_left() is not None]
    absolute = all(arm.macs_left() is not None for arm in told)
    points = []
    for name, arm, style in ended:
        x = arm.macs_left() if absolute else arm.mean("macs_left")
        accuracy = arm.mean("accuracy")
        if x is None or accuracy is None:
            continue
        unit = "multiply-adds" if absolute else "% of multiply-adds"
        detail = f"{name}: {accuracy:.2f} % accuracy at {html.compact(x)} {unit}"
        points.append(
            drawing.Point(
                name, x, accuracy, style, spread=arm.spread("accuracy"), size=arm.parameters_left(), detail=detail
            )
        )
    return points, "multiply-adds left per sample" if absolute else "multiply-adds left, %", absolute


# What counts as robust accuracy where all arms have it, by how much it proves.
ROBUST = {"autoattack": "AutoAttack", "worst": "the worst case a sample", "pgd": "PGD", "ifgsm": "IFGSM"}


def robust_picture(arms: Named) -> str:
    """Robust accuracy against multiply-adds left; nothing where some arm was not attacked."""
    points, label, _ = arm_points(arms)
    by_name = {name: arm for name, arm, _ in arms}
    key = next((key for key in ROBUST if all(by_name[one.label].mean(key) is not None for one in points)), None)
    if key is None or not points:
        return ""
    robust = []
    for one in points:
        arm = by_name[one.label]
        stands = arm.mean(key) or 0.0
        detail = f"{one.label}: {stands:.2f} % under {ROBUST[key]}, {one.y:.2f} % clean"
        robust.append(replace(one, y=stands, spread=arm.spread(key), detail=detail))
    front = drawing.pareto(robust) if len(robust) > 1 else []
    title, ylabel = "Robust accuracy against multiply-adds left", f"accuracy under {ROBUST[key]}, %"
    return html.charts(
        html.figure(drawing.scatter(title, robust, label, ylabel, fronts=[front] if front else [], caption=""))
    )


def measured_picture(name: str, found: Measured) -> str:
    """Size, latency and accuracy of an arm's variants: a drawing for each setting that was timed, and the table."""
    accuracy = {variant.name: variant.accuracy for variant in found.variants}
    size = {variant.name: variant.bytes for variant in found.variants}
    order = {variant.name: number for number, variant in enumerate(found.variants)}
    figures = []
    for batch, threads in found.settings():
        points = []
        for variant in found.variants:
            timing, percent = found.timing(variant.name, batch, threads), accuracy[variant.name]
            if timing is not None and percent is not None:
                told = f"{variant.name}: {timing.p50:.3g} ms, {percent:.2f} %, {_bytes(size[variant.name])}"
                points.append(
                    drawing.Point(
                        variant.name, timing.p50, percent, order[variant.name], size=size[variant.name], detail=told
                    )
                )
        if points:
            title = f"Batch {batch}, {threads} thread{'s' if threads > 1 else ''}"
            label = f"{found.split} accuracy, %"
            figures.append(html.figure(drawing.scatter(title, points, "median latency per batch, ms", label)))
    drawn = html.charts(*figures)
    told = html.paragraph("A circle's area is the size of the file; left and up is better.", soft=True) if drawn else ""
    rows = []
    for variant in found.variants:
        row: dict[str, Any] = {
            "variant": variant.name,
            "file": _bytes(variant.bytes),
            "multiply-adds": None if variant.macs is None else int(variant.macs),
            f"{found.split} accuracy %".strip(): None if variant.accuracy is None else f"{variant.accuracy:.2f}",
        }
        if variant.robust is not None and "worst" in variant.robust.scores:
            row[f"robust %, {variant.robust.ball}"] = str(variant.robust.scores["worst"])
        for batch, threads in found.settings():
            timing, first = (found.timing(at, batch, threads) for at in (variant.name, found.variants[0].name))
            text = "" if timing is None else f"{timing.p50:.3g}"
            if timing is not None and first is not None and timing is not first:
                text += f" ({first.p50 / timing.p50:.2f}×)"
            row[f"ms, batch {batch}, {threads} thread{'s' if threads > 1 else ''}"] = text
        rows.append(row)
    shown = html.table(rows, f"Size, latency and accuracy of {name}")
    first = found.variants[0].name if found.variants else ""
    meaning = html.paragraph(
        f"Medians; in brackets how many times as fast as {first}, in this measurement.", soft=True
    )  # fmt: skip
    return f"<h3>{html.escape(name)}</h3>{drawn}{told}{shown}{meaning if found.timings else ''}" + html.bullets(
        found.notes
    )


def attacked_tables(named: Named) -> str:
    """Accuracy under each attack, a column per network, with the signs that it claims too much."""
    parts = []
    for name, arm, _ in named:
        titles = {key: under.title for one in arm.attacked for key, under in one.scores.items()}
        # A network beside the first has been tried with one attack more; the worst case stays last.
        order = sorted(titles, key=lambda key: key == "worst")
        rows = [{"attack": titles[key], **{one.name: _under(one, key) for one in arm.attacked}} for key in order]
        warned = [f"{one.name}: {warning}" for one in arm.attacked for warning in one.warnings]
        if rows:
            balls = ", ".join(dict.fromkeys(one.ball for one in arm.attacked))
            fewer = " A fifth of the usual steps, so robustness is overstated." if arm.attacked[0].quick else ""
            meaning = f"Accuracy left, percent, with intervals of 95 % confidence; ball: {balls}.{fewer}"
            parts.append(
                f"<h3>{html.escape(name)}</h3>{html.table(rows, f'Robust accuracy of {name}')}"
                f"{html.paragraph(meaning, soft=True)}{html.notes(warned, 'Warnings')}"
            )
    return "".join(parts)


def _under(one: Attacked, key: str) -> str:
    if key not in one.scores:
        return ""
    found, clean = one.scores[key], one.scores.get("clean")
    fewer = clean is not None and found.samples is not None and found.samples != clean.samples
    return f"{found} on {found.samples:.0f} samples" if fewer else str(found)


def _bytes(size: float | None) -> str:
    if size is None:
        return ""
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def difference(arm: Arm, base: Arm, key: str) -> str:
    """How far an arm lies from the baseline in a number, seed by seed where both have the same seeds."""
    ours = {one.seed: at for one in arm.trained if (at := number((one.result or {}).get(key))) is not None}
    theirs = {one.seed: at for one in base.trained if (at := number((one.result or {}).get(key))) is not None}
    if not ours or not theirs:
        return ""
    if set(ours) != set(theirs):
        return f"{statistics.fmean(ours.values()) - statistics.fmean(theirs.values()):+.2f}"
    pairs = [ours[seed] - theirs[seed] for seed in ours]
    text = f"{statistics.fmean(pairs):+.2f}"
    return text + (f" ± {statistics.stdev(pairs):.2f}" if len(pairs) > 1 else "")
