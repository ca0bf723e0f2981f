"""Charts as inline SVG: small, crisp at any width, coloured by the page's style sheet so that they follow light and dark.

All are drawn 360 units wide, about the width of a phone, so that their text is never scaled down.
"""

from __future__ import annotations

import html
import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 360, 236
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 38
STYLES = 8  # colours of the style sheet; beyond them lines are dashed
HOVERS = 60  # points per line that answer to the mouse


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: for the reader who hovers.
        points: (x, y), x ascending; what is not finite is left out.
        style: number of its colour.
        faint: a further seed of a method.
    """

    name: str
    points: Sequence[tuple[float, float]]
    style: int
    faint: bool = False


@dataclass(frozen=True)
class Point:
    """One point of a scatter.

    Attributes:
        label: written beside it.
        x: its abscissa.
        y: its ordinate.
        style: number of its colour.
        spread: standard deviation of y, drawn as a bar.
        size: what the area of its circle stands for, relative to the largest; None draws a small one.
        detail: for the reader who hovers.
    """

    label: str
    x: float
    y: float
    style: int
    spread: float | None = None
    size: float | None = None
    detail: str = ""


def escape(text: object) -> str:
    """Text made safe for HTML and its attributes."""
    return html.escape(str(text), quote=True)


def compact(value: float) -> str:
    """A number for an axis: 0.001, 25, 1.5k, 560M."""
    if value == 0:
        return "0"
    size = abs(value)
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            scaled = value / (1e3 if letter == "k" else limit)
            return f"{scaled:.3g}{letter}"
    return f"{value:.0e}".replace("e-0", "e-") if size < 1e-3 else f"{value:.4g}"


def svg(title: str, description: str, body: str, height: float = HEIGHT) -> str:
    """An image with a title and a description for those who do not see it."""
    mark = f"c{zlib.crc32((title + description + body).encode()):08x}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-labelledby="{mark}t {mark}d">'
        f'<title id="{mark}t">{escape(title)}</title><desc id="{mark}d">{escape(description)}</desc>{body}</svg>'
    )


def dashes(style: int) -> str:
    """The dash pattern of a style: colours come first, dashes where they are used up."""
    return ("", "5 3", "2 2", "7 2 2 2")[style // STYLES % 4]


def _stroke(style: int) -> str:
    pattern = dashes(style)
    return f'class="s{style % STYLES}"' + (f' stroke-dasharray="{pattern}"' if pattern else "")


def swatch(style: int) -> str:
    """The sample of a line that stands in a legend."""
    return f'<svg class="swatch" viewBox="0 0 24 8" aria-hidden="true"><path {_stroke(style)} d="M1 4H23"/></svg>'


def ticks(low: float, high: float, count: int = 5, whole: bool = False) -> list[float]:
    """Round numbers that span an interval; `whole` asks for integers."""
    span = high - low
    if not span > 0:
        return [low]
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, math.ceil(step))
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Axis:
    """A scale from data to units of the drawing.

    Attributes:
        low: least value of the data.
        high: largest value of the data.
        start: where `low` lies in the drawing.
        end: where `high` lies in it.
        log: logarithmic; low and high are positive then.
        whole: only integers are marked.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False

    def __call__(self, value: float) -> float:
        """Where a value lies."""
        scale: Callable[[float], float] = math.log10 if self.log else float
        low, high = scale(self.low), scale(self.high)
        return self.start + (scale(value) - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Where numbers stand."""
        if not self.log:
            return ticks(self.low, self.high, whole=self.whole)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1,), (1, 3), (1, 2, 5)):
            found = [factor * 10.0**decade for decade in decades for factor in factors]
            found = [value for value in found if self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)]
            if len(found) >= 3:
                return found[:: math.ceil(len(found) / 6)]
        return ticks(self.low, self.high)


def axis(
    values: Iterable[float],
    start: float,
    end: float,
    *,
    log: bool = False,
    low: float | None = None,
    high: float | None = None,
) -> Axis:
    """An axis around all values, with some air; `low` and `high` fix an end."""
    found = [value for value in values if math.isfinite(value) and (value > 0 or not log)] or [1.0]
    least, most = min(found), max(found)
    if log:
        air = max((most / least) ** 0.05, 1.05)
        return Axis(least / air if low is None else low, most * air if high is None else high, start, end, True)
    air = 0.06 * (most - least) or 0.05 * abs(most) or 1.0
    made = (least - air if low is None else low, most + air if high is None else high)
    return Axis(made[0], made[1] if made[1] > made[0] else made[0] + 1.0, start, end)


def _frame(x: Axis, y: Axis, xlabel: str, ylabel: str) -> str:
    parts = []
    for value in y.ticks():
        at = y(value)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{at + 3.5:.1f}" text-anchor="end">{compact(value)}</text>')
    bottom = HEIGHT - BOTTOM
    for value in x.ticks():
        at = x(value)
        parts.append(f'<path class="axis" d="M{at:.1f} {bottom}v4"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 15}" text-anchor="middle">{compact(value)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {bottom}H{WIDTH - RIGHT}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="name" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(xlabel)}</text>')
    parts.append(
        f'<text class="name" transform="translate(10 {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(ylabel)}</text>"
    )
    return "".join(parts)


def line_chart(
    title: str,
    lines: Sequence[Line],
    xlabel: str,
    ylabel: str,
    *,
    log: bool = False,
    low: float | None = None,
    high: float | None = None,
) -> str:
    """Curves over one axis; empty where no line has a point that can be drawn."""
    drawn = [
        Line(line.name, [point for point in line.points if _drawable(point, log)], line.style, line.faint)
        for line in lines
    ]
    drawn = [line for line in drawn if line.points]
    if not drawn:
        return ""
    xs = [x for line in drawn for x, _ in line.points]
    # A single epoch stands in the middle.
    ends = (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 1, min(xs) + 1)
    x = Axis(*ends, LEFT, WIDTH - RIGHT, whole=all(at == int(at) for at in xs))
    values = [value for line in drawn for _, value in line.points]
    y = axis(values, HEIGHT - BOTTOM, TOP, log=log, low=low, high=high)
    parts = [_frame(x, y, xlabel, ylabel)]
    # The faint ones first: the named curve lies on top.
    for line in sorted(drawn, key=lambda line: not line.faint):
        path = " ".join(f"{x(at):.1f} {y(value):.1f}" for at, value in line.points)
        faint = ' opacity=".4"' if line.faint else ""
        parts.append(f'<path {_stroke(line.style)}{faint} d="M{path}"/>')
        if len(line.points) == 1:
            parts.append(_dot(x, y, line, line.points[0], visible=True))
    for line in drawn:
        if not line.faint and len(line.points) > 1:
            stride = math.ceil(len(line.points) / HOVERS)
            parts += [_dot(x, y, line, point) for point in line.points[::-stride]]
    last = "; ".join(f"{line.name} ends at {line.points[-1][1]:.4g}" for line in drawn if not line.faint)
    return svg(title, f"{ylabel} against {xlabel}: {last}.", "".join(parts))


def _dot(x: Axis, y: Axis, line: Line, point: tuple[float, float], visible: bool = False) -> str:
    """A circle that tells its values; invisible where the curve itself is drawn."""
    look = f'class="f{line.style % STYLES}" r="3"' if visible else 'class="hit" r="6"'
    told = escape(f"{line.name}: {point[1]:.4g} at {point[0]:g}")
    return f'<circle {look} cx="{x(point[0]):.1f}" cy="{y(point[1]):.1f}"><title>{told}</title></circle>'


def _drawable(point: tuple[float, float], log: bool) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1]) and (point[1] > 0 or not log)


def histogram(
    title: str,
    edges: tuple[float, float],
    shares: Sequence[tuple[str, int, Sequence[float], float]],
    xlabel: str,
) -> str:
    """Histograms of logarithms laid over each other as outlines; exact zeros stand apart on the left.

    Args:
        title: of the image.
        edges: decimal logarithms of the first and the last edge.
        shares: name, style, percent a bin, percent of exact zeros.
        xlabel: what is binned.
    """
    zero_at, zero_width = LEFT + 4, 26
    start = LEFT + zero_width + 22
    bins = len(shares[0][2])
    # Bins that are empty in all are cut off at both ends.
    used = [number for number in range(bins) if any(values[number] > 0 for _, _, values, _ in shares)]
    first, last = (used[0], used[-1] + 1) if used else (0, bins)
    step = (edges[1] - edges[0]) / bins
    x = Axis(edges[0] + first * step, edges[0] + last * step, start, WIDTH - RIGHT)
    top = max((value for _, _, values, _ in shares for value in values), default=1.0) or 1.0
    y = Axis(0, 1.08 * top, HEIGHT - BOTTOM, TOP)
    zero_y = Axis(0, 100, HEIGHT - BOTTOM, TOP)
    bottom = HEIGHT - BOTTOM
    parts = [f'<path class="axis" d="M{LEFT} {bottom}H{LEFT + zero_width + 8}M{start} {bottom}H{WIDTH - RIGHT}"/>']
    for value in (0, 25, 50, 75, 100):
        at = zero_y(value)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}h{zero_width + 8}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{at + 3.5:.1f}" text-anchor="end">{value}</text>')
    for value in ticks(0, top, 3)[1:]:
        at = y(value)
        parts.append(f'<path class="grid" d="M{start} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text x="{start - 3}" y="{at + 3.5:.1f}" text-anchor="end" class="small">{compact(value)}</text>'
        )
    for exponent in range(math.ceil(x.low - 1e-9), math.floor(x.high + 1e-9) + 1):
        label = f'10<tspan dy="-4" font-size="8">{exponent}</tspan>'
        parts.append(f'<path class="axis" d="M{x(exponent):.1f} {bottom}v4"/>')
        parts.append(f'<text x="{x(exponent):.1f}" y="{bottom + 15}" text-anchor="middle">{label}</text>')
    parts.append(f'<text x="{zero_at + zero_width / 2}" y="{bottom + 15}" text-anchor="middle">zero</text>')
    middle = (start + WIDTH - RIGHT) / 2
    parts.append(f'<text class="name" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(xlabel)}</text>')
    parts.append(
        f'<text class="name" transform="translate(10 {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
        "exactly zero, %</text>"
    )
    width = zero_width / len(shares)
    for number, (name, style, values, zeros) in enumerate(shares):
        at, high = zero_at + number * width, zero_y(zeros)
        told = escape(f"{name}: {zeros:.2f} % exactly zero")
        parts.append(
            f'<rect class="f{style % STYLES}" x="{at:.1f}" y="{min(high, bottom - 1):.1f}" width="{max(width - 1, 1):.1f}" '
            f'height="{max(bottom - high, 1):.1f}"><title>{told}</title></rect>'
        )
        steps = " ".join(
            f"V{y(value):.1f}H{x(edges[0] + (first + place + 1) * step):.1f}"
            for place, value in enumerate(values[first:last])
        )
        parts.append(
            f'<path {_stroke(style)} d="M{start} {bottom}{steps}V{bottom}"><title>{escape(name)}</title></path>'
        )
    told = "; ".join(f"{name}: {zeros:.1f} % exactly zero" for name, _, _, zeros in shares)
    return svg(title, f"Distribution of {xlabel}. {told}.", "".join(parts))


def bars(title: str, rows: Sequence[tuple[str, int, int]], style: int) -> str:
    """One bar per layer: its width before as an outline, what stays filled.

    Args:
        title: of the image.
        rows: layer, channels before, channels that stay.
        style: number of the colour.
    """
    pitch, names, numbers = 19, 112, 74
    widest = max((before for _, before, _ in rows), default=1) or 1
    room = WIDTH - names - numbers
    parts = []
    for number, (name, before, left) in enumerate(rows):
        at = 4 + number * pitch
        shown = name if len(name) <= 18 else f"…{name[-17:]}"
        told = escape(f"{name}: {left} of {before} channels stay")
        full, kept = room * before / widest, room * left / widest
        parts.append(
            f'<g><title>{told}</title><text x="{names - 6}" y="{at + 11}" text-anchor="end">{escape(shown)}</text>'
            f'<rect class="before" x="{names}" y="{at + 1.5}" width="{max(full, 1):.1f}" height="12"/>'
            f'<rect class="f{style % STYLES}" x="{names}" y="{at + 1}" width="{kept:.1f}" height="13"/>'
            f'<text x="{names + full + 5:.1f}" y="{at + 11}">{f"{left} of {before}" if left != before else before}</text></g>'
        )
    told = "; ".join(f"{name} {left} of {before}" for name, before, left in rows)
    return svg(title, f"Channels that stay: {told}.", "".join(parts), 8 + pitch * len(rows))


def scatter(
    title: str,
    points: Sequence[Point],
    xlabel: str,
    ylabel: str,
    *,
    fronts: Sequence[Sequence[Point]] = (),
    log: bool = False,
) -> str:
    """Points with their names beside them, and Pareto fronts as stairs: nothing measured lies above and left of one."""
    x = axis([point.x for point in points], LEFT, WIDTH - RIGHT - 14, log=log, low=None if log else 0.0)
    ys = [point.y + sign * (point.spread or 0) for point in points for sign in (-1, 1)]
    y = axis(ys, HEIGHT - BOTTOM - 12, TOP + 12)
    parts = [_frame(x, y, xlabel, ylabel)]
    for front in fronts:
        ordered = sorted(front, key=lambda point: point.x)
        stairs = f"M{x(ordered[0].x):.1f} {y(ordered[0].y):.1f}" + "".join(
            f"H{x(point.x):.1f}V{y(point.y):.1f}" for point in ordered[1:]
        )
        parts.append(f'<path class="front" d="{stairs}H{WIDTH - RIGHT}"/>')
    taken: list[tuple[float, float, float, float]] = []
    largest = max((point.size or 0 for point in points), default=0) or 1
    radii = [4.0 if point.size is None else max(3.0, 12 * math.sqrt(point.size / largest)) for point in points]
    for point, radius in zip(points, radii, strict=True):
        cx, cy = x(point.x), y(point.y)
        taken.append((cx - radius, cy - radius, cx + radius, cy + radius))
        colour = f"{point.style % STYLES}"
        if point.spread:
            parts.append(
                f'<path class="s{colour}" d="M{cx:.1f} {y(point.y - point.spread):.1f}V{y(point.y + point.spread):.1f}"/>'
            )
        told = escape(point.detail or f"{point.label}: {point.y:.4g} at {point.x:.4g}")
        parts.append(
            f'<circle class="p{colour}" cx="{cx:.1f}" cy="{cy:.1f}" r="{radius:.1f}"><title>{told}</title></circle>'
        )
    for point, radius in zip(points, radii, strict=True):
        parts.append(_label(point, x(point.x), y(point.y), radius, taken))
    listed = "; ".join(f"{point.label}: {point.y:.4g} at {point.x:.4g}" for point in points)
    return svg(title, f"{ylabel} against {xlabel}. {listed}.", "".join(parts))


def _label(point: Point, cx: float, cy: float, radius: float, taken: list[tuple[float, float, float, float]]) -> str:
    """A point's name at the first place around it where nothing else stands; left out where there is none."""
    # Letters of bold text at 11 units are about 7 wide.
    width, height, gap = 7.0 * len(point.label) + 2, 12.0, radius + 3
    # Above and below, a name may be pushed sideways to stay inside.
    centred = min(max(cx - width / 2, LEFT + 1), WIDTH - width - 1)
    places = [
        (cx + gap, cy - 6), (cx - gap - width, cy - 6), (centred, cy - gap - height), (centred, cy + gap),
        (cx + gap, cy - gap - 9), (cx + gap, cy + gap - 3), (cx - gap - width, cy - gap - 9),
        (cx - gap - width, cy + gap - 3), (centred, cy - gap - 2.2 * height), (centred, cy + gap + 1.2 * height),
        (centred, cy - gap - 3.4 * height),
    ]  # fmt: skip
    for left, top in places:
        box = (left, top, left + width, top + height)
        inside = box[0] >= LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM
        if inside and not any(_overlap(box, other) for other in taken):
            taken.append(box)
            return f'<text class="label" x="{left + 1:.1f}" y="{top + 10:.1f}">{escape(point.label)}</text>'
    return ""


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def pareto(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both: at most its x and at least its y, one of them strictly."""
    return [
        point
        for point in points
        if not any(
            other.x <= point.x and other.y >= point.y and (other.x < point.x or other.y > point.y) for other in points
        )
    ]


def bin_of(value: float, edges: tuple[float, float], bins: int) -> int:
    """The bin of a positive value's decimal logarithm; what lies outside counts to the outermost."""
    place = (math.log10(value) - edges[0]) / (edges[1] - edges[0]) * bins
    return min(max(int(place), 0), bins - 1)
