"""Small charts as inline SVG: text in the page's own font, colours from its style sheet, no script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 44


@dataclass(frozen=True)
class Series:
    """A named line, set of points or histogram.

    Attributes:
        name: for the legend and the tooltip.
        points: (x, y), finite.
        colour: which of the page's colours, counted round.
        faint: a further seed of a line already in the legend.
        labels: one a point, shown when the pointer rests on it; names instead of coordinates.
        dashed: drawn dashed.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    faint: bool = False
    labels: Sequence[str] = ()
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        label: with its unit.
        log: logarithmic; values must be positive.
        low, high: ends, where they are not to follow the data.
    """

    label: str
    log: bool = False
    low: float | None = None
    high: float | None = None


def lines(title: str, series: Sequence[Series], x: Axis, y: Axis) -> str:
    """Lines through points, with a legend."""
    return _chart(title, series, x, y, mark="line")


def scatter(title: str, series: Sequence[Series], x: Axis, y: Axis, front: Sequence[tuple[float, float]] = ()) -> str:
    """Points, each with its label beside it; `front` is drawn as a thin line through its points."""
    return _chart(title, series, x, y, mark="point", front=front)


def steps(title: str, series: Sequence[Series], x: Axis, y: Axis) -> str:
    """Histogram outlines: a point (edge, count) holds to the next edge."""
    return _chart(title, series, x, y, mark="step")


def bars(title: str, rows: Sequence[tuple[str, float, float]], unit: str) -> str:
    """Per row a bar for the whole and in it one for what is left.

    Args:
        title: for readers who do not see it.
        rows: name, whole, left; whole at least left.
        unit: what is counted.
    """
    height = 18 * len(rows) + 30
    largest = max((whole for _, whole, _ in rows), default=1.0) or 1.0
    parts = [_open(title, height)]
    for number, (name, whole, left) in enumerate(rows):
        top = 8 + 18 * number
        full, kept = (max(1.0, (WIDTH - 250) * value / largest) for value in (whole, left))
        text = f"{name}: {left:,.0f} of {whole:,.0f} {unit}"
        parts.append(
            f"<g><title>{escape(text)}</title>"
            f'<text x="136" y="{top + 11}" class="end">{escape(_short(name))}</text>'
            f'<rect x="142" y="{top}" width="{full:.1f}" height="13" class="whole"/>'
            f'<rect x="142" y="{top}" width="{kept:.1f}" height="13" class="left"/>'
            f'<text x="{148 + full:.1f}" y="{top + 11}">{left:,.0f} / {whole:,.0f}</text></g>'
        )
    return "".join(parts) + "</svg>"


def _short(name: str, most: int = 19) -> str:
    return name if len(name) <= most else "…" + name[-most + 1 :]


def _open(title: str, height: int = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'


class _Scale:
    """From values to places along one direction."""

    def __init__(self, values: Sequence[float], axis: Axis, first: float, last: float) -> None:
        self.log = axis.log
        found = [math.log10(value) if axis.log else value for value in values]
        low = min(found, default=0.0) if axis.low is None else (math.log10(axis.low) if axis.log else axis.low)
        high = max(found, default=1.0) if axis.high is None else (math.log10(axis.high) if axis.log else axis.high)
        if high - low < 1e-12:
            low, high = low - 0.5, high + 0.5
        pad = 0.04 * (high - low)
        self.low = low - (pad if axis.low is None else 0)
        self.high = high + (pad if axis.high is None else 0)
        self.first, self.last = first, last

    def __call__(self, value: float) -> float:
        place = math.log10(value) if self.log else value
        return self.first + (place - self.low) / (self.high - self.low) * (self.last - self.first)

    def ticks(self) -> list[float]:
        """Four to seven round values."""
        if self.log:
            whole = [10.0**power for power in range(math.ceil(self.low), math.floor(self.high) + 1)]
            if len(whole) >= 2:
                return whole[:: max(1, len(whole) // 6)]
            return [10**self.low * (10 ** ((self.high - self.low) / 4)) ** number for number in range(1, 4)]
        span = self.high - self.low
        size = 10 ** math.floor(math.log10(span / 4))
        step = next(size * factor for factor in (1, 2, 5, 10) if span / (size * factor) <= 6)
        first = math.ceil(self.low / step)
        return [number * step for number in range(first, math.floor(self.high / step) + 1)]


def _text(value: float) -> str:
    if value != 0 and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-")
    return f"{value:.4g}"


def _chart(
    title: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    mark: str,
    front: Sequence[tuple[float, float]] = (),
) -> str:
    named = [one for one in series if not one.faint]
    rows = math.ceil(len(named) / 2) if mark != "point" else 0
    height = HEIGHT + 18 * rows
    bottom = HEIGHT - BOTTOM
    across = _Scale([point[0] for one in series for point in one.points], x, LEFT, WIDTH - RIGHT)
    up = _Scale([point[1] for one in series for point in one.points], y, bottom, TOP)
    parts = [_open(title, height)]
    for tick in up.ticks():
        place = up(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" y2="{place:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{place + 4:.1f}" class="end">{_text(tick)}</text>')
    for tick in across.ticks():
        parts.append(f'<text x="{across(tick):.1f}" y="{bottom + 16}" class="mid">{_text(tick)}</text>')
    parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}" class="axis"/>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{bottom + 34}" class="mid">{escape(x.label)}</text>')
    middle = (TOP + bottom) / 2
    parts.append(f'<text transform="translate(13 {middle}) rotate(-90)" class="mid">{escape(y.label)}</text>')
    if front:
        path = " ".join(f"{across(a):.1f},{up(b):.1f}" for a, b in front)
        parts.append(f'<polyline points="{path}" class="front"/>')
    parts += [_drawn(one, across, up, mark) for one in series]
    if rows:
        parts += [_legend(one, number) for number, one in enumerate(named)]
    return "".join(parts) + "</svg>"


def _drawn(one: Series, across: _Scale, up: _Scale, mark: str) -> str:
    places = [(across(a), up(b)) for a, b in one.points]
    style = f"c{one.colour % 6}" + (" faint" if one.faint else "") + (" dashed" if one.dashed else "")
    if mark == "point":
        found = []
        for number, (a, b) in enumerate(places):
            label = one.labels[number] if one.labels else one.name
            # A label near the right edge stands to the left of its point.
            side = ("end", -8) if a > WIDTH * 0.62 else ("start", 8)
            found.append(
                f'<g class="{style}"><title>{escape(label)}</title><circle cx="{a:.1f}" cy="{b:.1f}" r="5"/>'
                f'<text x="{a + side[1]:.1f}" y="{b + 4:.1f}" class="{side[0]} name">{escape(one.name)}</text></g>'
            )
        return "".join(found)
    if mark == "step":
        places = [
            corner
            for (a, b), (c, _) in zip(places, [*places[1:], places[-1]], strict=True)
            for corner in ((a, b), (c, b))
        ]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    return f'<polyline points="{path}" class="line {style}"><title>{escape(one.name)}</title></polyline>'


def _legend(one: Series, number: int) -> str:
    left, top = LEFT + 205 * (number % 2), HEIGHT + 6 + 18 * (number // 2)
    style = f"c{one.colour % 6}" + (" dashed" if one.dashed else "")
    return (
        f'<line x1="{left}" x2="{left + 20}" y1="{top}" y2="{top}" class="line {style}"/>'
        f'<text x="{left + 26}" y="{top + 4}">{escape(_short(one.name, 25))}</text>'
    )
