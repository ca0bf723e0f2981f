"""The pieces of a page: one file, no network, readable on a phone, in the dark, on paper and by ear."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gracile.core import figures
from gracile.report.drawing import DASHES, Chart

STYLE = figures.colours() + (Path(__file__).parent / "style.css").read_text(encoding="utf-8")


def escape(text: object) -> str:
    """Text made safe for HTML and its attributes."""
    return html.escape(str(text), quote=True)


def page(title: str, body: str) -> str:
    """A whole page. The browser is forbidden to fetch anything, so it cannot reach out whatever a run's texts hold."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A section, or nothing where its parts are all empty."""
    body = "\n".join(part for part in parts if part)
    return f"<section><h2>{escape(title)}</h2>\n{body}</section>\n" if body else ""


def paragraph(text: str, soft: bool = False) -> str:
    """Text; `code` between backticks is set as such."""
    return f"<p{' class=soft' if soft else ''}>{inline(text)}</p>"


def bullets(texts: Sequence[str]) -> str:
    """A list, or nothing."""
    return f"<ul>{''.join(f'<li>{inline(text)}</li>' for text in texts)}</ul>" if texts else ""


def inline(text: str) -> str:
    """Escaped text with `code` between backticks."""
    return re.sub(r"`([^`\n]+)`", r"<code>\1</code>", escape(text))


def notes(texts: Sequence[str], title: str, *, routine: bool = False, shown: int = 6) -> str:
    """Sentences under a word; those beyond the first few can be unfolded. Routine ones are quiet, others are seen."""
    texts = list(dict.fromkeys(texts))
    more = texts[shown:]
    body = bullets(texts[:shown]) + (details(f"{len(more)} more", bullets(more)) if more else "")
    return f'<div class="{"routine" if routine else "note"}"><b>{escape(title)}</b>{body}</div>' if texts else ""


def note(body: str, bad: bool = False) -> str:
    """A box that is seen."""
    return f'<div class="note{" bad" if bad else ""}">{body}</div>' if body else ""


def details(summary: str, body: str) -> str:
    """What is unfolded on demand, and printed always."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>" if body else ""


def code(text: str) -> str:
    """A text as it stands."""
    return f"<pre tabindex=0><code>{escape(text)}</code></pre>"


def figure(chart: Chart | None) -> str:
    """A chart with its title above and what to see in it below; nothing without one."""
    if chart is None:
        return ""
    below = f"<figcaption>{inline(chart.caption)}</figcaption>" if chart.caption else ""
    return f"<figure><b>{escape(chart.title)}</b>{figures.svg(chart.figure, chart.title, chart.told)}{below}</figure>"


def charts(*figures: str) -> str:
    """Figures side by side where there is room."""
    found = [one for one in figures if one]
    return f'<div class="charts">{"".join(found)}</div>' if found else ""


def legend(styles: Mapping[str, int]) -> str:
    """Names with samples of their lines."""
    items = "".join(f"<li>{_swatch(style)}{escape(name)}</li>" for name, style in styles.items())
    return f'<ul class="legend">{items}</ul>' if items else ""


def _swatch(style: int) -> str:
    """The sample of a line that stands in a legend."""
    dashes = {"-": "", "--": "6 3", ":": "2 2", "-.": "6 2 2 2"}[DASHES[style // figures.STYLES % len(DASHES)]]
    look = f"stroke:var(--s{style % figures.STYLES});stroke-width:2.5;stroke-dasharray:{dashes or 'none'}"
    return f'<svg class="swatch" viewBox="0 0 24 8" aria-hidden="true"><path style="{look}" d="M1 4H23"/></svg>'


def compact(value: float) -> str:
    """A number in few letters: 0.001, 25, 1.5k, 560M."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if letter == 'k' else limit):.3g}{letter}"
    return f"{value:.4g}"


def table(rows: Sequence[Mapping[str, Any]], caption: str, base: int | None = None) -> str:
    """A table that scrolls within its own box where it is too wide.

    Args:
        rows: one dictionary a row, columns in order of first appearance; numbers are set with four digits.
        caption: what it holds, for those who do not see it.
        base: the row that others are held against.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if not columns:
        return ""
    cells = [[cell(row.get(column, "")) for column in columns] for row in rows]
    # The first is what a row is called, a number or not.
    numeric = [
        place > 0 and any(map(looks_numeric, column)) and _all_numeric(column)
        for place, column in enumerate(zip(*cells, strict=True))
    ]
    marks = [
        " ".join(part for part in ("num" if number else "", "pub" if column.startswith("published ") else "") if part)
        for column, number in zip(columns, numeric, strict=True)
    ]
    tag = lambda name, mark, scope="": f"<{name}{scope}" + (f' class="{mark}"' if mark else "") + ">"
    head = "".join(
        f"{tag('th', mark, ' scope=col')}{escape(column)}</th>" for column, mark in zip(columns, marks, strict=True)
    )
    lines = []
    for number, row in enumerate(cells):
        first = f"{tag('th', marks[0], ' scope=row')}{escape(row[0])}</th>"
        rest = "".join(f"{tag('td', mark)}{escape(value)}</td>" for value, mark in zip(row[1:], marks[1:], strict=True))
        lines.append(f"<tr{' class=base' if number == base else ''}>{first}{rest}</tr>")
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def cell(value: Any) -> str:
    """A value as it stands in a table."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if math.isnan(value):
            return "not a number"
        return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(cell, value))
    return str(value)


def looks_numeric(text: str) -> bool:
    """Whether a cell holds a number, perhaps signed, with a spread or a unit."""
    return re.match(r"^[+-]?[\d.,]*\d(e[+-]?\d+)?( ± [\d.,e+-]+)?( ?(%|×|kB|MB))?( \([\d.]+×\))?$", text) is not None


def _all_numeric(column: Sequence[str]) -> bool:
    return all(
        not text or looks_numeric(text) or text in ("baseline", "not a number", "inf", "-inf") for text in column
    )
