"""The one place that makes a figure and writes it: matplotlib's objects, so that no display and no global state is touched.

Figures are drawn in matplotlib's default colours, and written as SVG in which these are names: `PALETTE` gives each name a colour
for light and one for dark, and the reader's screen chooses. matplotlib is imported when a figure is made.
"""

from __future__ import annotations

import html
import io
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gracile.core.errors import InputError
from gracile.core.files import write_atomically, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# By name, on light and on dark. Each but ``line`` and grounds has a contrast of 4.5 or more against both grounds; a test holds them to it.
PALETTE = {
    "bg": ("#fff", "#14171b"),
    "box": ("#f5f6f8", "#1d2228"),
    "ink": ("#1a1d21", "#e8eaed"),
    "soft": ("#555d68", "#a9b1bc"),
    "line": ("#d5d9df", "#3a424c"),
    "s0": ("#0b62c4", "#6ab0ff"),
    "s1": ("#b8420a", "#ff9d5c"),
    "s2": ("#0b7048", "#4cc98f"),
    "s3": ("#b8124a", "#ff7d97"),
    "s4": ("#9a1ea8", "#e18af0"),
    "s5": ("#7d5a00", "#e0b94a"),
    "s6": ("#4b5563", "#aab4c2"),
    "s7": ("#0a6a80", "#4fc6dd"),
    "s8": ("#5b4bd0", "#a9a0ff"),
    "s9": ("#4f6b00", "#b4cf5a"),
}
STYLES = 10
# What matplotlib draws lines in by default, by the names above; greys go by their lightness.
_CYCLE = ("1f77b4", "ff7f0e", "2ca02c", "d62728", "9467bd", "8c564b", "e377c2", "7f7f7f", "bcbd22", "17becf")
_GREYS = ((0x40, "ink"), (0xA8, "soft"), (0xF0, "line"), (0x100, "bg"))
# An artist whose gid begins so tells the rest of it to those who hover over it.
TIP = "tip:"
# Units of a drawing to an inch.
DOTS = 72


def new_figure(width: float = 6.4, height: float = 4.0, *, margins: Mapping[str, float] | None = None) -> Figure:
    """A figure with room for its labels.

    Args:
        width: inches.
        height: inches.
        margins: ``left``, ``right``, ``bottom`` and ``top`` of the axes as shares; by default labels are measured, which
            doubles the time a figure takes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained" if margins is None else None)
    if margins is not None:
        figure.subplots_adjust(**margins)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as its suffix says: ``.svg``, which follows light and dark, or ``.png`` at 120 dots an inch on white.

    Raises:
        InputError: another suffix.
    """
    if path.suffix == ".svg":
        write_text(path, svg_file(figure))
    elif path.suffix == ".png":
        write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))
    else:
        raise InputError(f"A picture cannot be written as '{path.suffix}'.", "Name a file that ends in .svg or .png.")
    return path


def declared(*, dark: bool) -> str:
    """The palette's declarations for a style sheet, of one of its two modes."""
    return ";".join(f"--{name}:{pair[dark]}" for name, pair in PALETTE.items())


def colours() -> str:
    """The palette as a style sheet that follows the reader's screen."""
    return f":root{{{declared(dark=False)}}}@media(prefers-color-scheme:dark){{:root{{{declared(dark=True)}}}}}"


def svg_file(figure: Figure, title: str = "", description: str = "") -> str:
    """A figure as an SVG file of its own: the same bytes for the same drawing, no script, light and dark."""
    drawn = svg(figure, title, description)
    style = f"<style>{colours()}</style>"
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    # Points, so that words of ten of them are as large as those around the picture.
    width, height = (f"{DOTS * inches:g}pt" for inches in figure.get_size_inches())
    # With a ground of its own it can be read where a page is dark and the screen is not.
    drawn = drawn.replace('style="', 'style="background:var(--bg,#fff);', 1)
    head, _, rest = drawn.partition(">")
    return f'{head.replace("<svg", f"<svg {names}", 1)} width="{width}" height="{height}">{style}{rest}\n'


def svg(figure: Figure, title: str = "", description: str = "") -> str:
    """A figure as an ``<svg>`` to stand inside a page that has the palette's style sheet.

    Args:
        figure: one inch is 72 units; words are set in the reader's own sans-serif face.
        title: for those who do not see it.
        description: what it shows, for them.
    """
    import matplotlib

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gracile", "svg.image_inline": True}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _told(_themed(buffer.getvalue()), title, description)


def _themed(text: str) -> str:
    """The file that matplotlib writes, without its preamble, its names of groups and its face of type, and with names for colours."""
    text = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.S)
    box = re.search(r'viewBox="([^"]*)"', body)
    assert box is not None
    body = body[body.index(">") + 1 : body.rindex("</svg>")]
    body = re.sub(rf'<g id="{TIP}([^"]*)">', r"<g><title>\1</title>", body)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r"(?<=px )'[^;\"]*sans-serif", "system-ui,sans-serif", body)
    body = re.sub(r"font-family: [^;\"]*", "font-family: system-ui,sans-serif", body)
    body = re.sub(r"#([0-9a-f]{6})\b", _variable, body)
    body = re.sub(r"\n\s*", "\n", body).strip()
    look = "fill:var(--ink,#1a1d21);stroke-linejoin:round;stroke-linecap:butt"
    return f'<svg viewBox="{box[1]}" role="img" style="{look}">{body}</svg>'


def _variable(found: re.Match[str]) -> str:
    colour = found[1]
    if colour in _CYCLE:
        name = f"s{_CYCLE.index(colour)}"
    elif colour[:2] == colour[2:4] == colour[4:]:
        name = next(name for limit, name in _GREYS if int(colour[:2], 16) < limit)
    else:
        return found[0]
    return f"var(--{name},{PALETTE[name][0]})"


def _told(drawn: str, title: str, description: str) -> str:
    """The drawing with a title and a description that belong to it alone."""
    if not title:
        return drawn
    mark = f"c{zlib.crc32((title + description + drawn).encode()):08x}"
    words = f'<title id="{mark}t">{html.escape(title)}</title><desc id="{mark}d">{html.escape(description)}</desc>'
    head, _, rest = drawn.partition(">")
    return f'{head} aria-labelledby="{mark}t {mark}d">{words}{rest}'
