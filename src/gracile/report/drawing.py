"""The charts of a page: 360 units wide, about the width of a phone, so that their words are never scaled down there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gracile.core.figures import STYLES, TIP, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches, and points of type.
WIDTH, HEIGHT = 5.0, 3.3
SMALL = 9
# These hold numbers of six characters.
MARGINS = {"left": 0.15, "right": 0.965, "bottom": 0.16, "top": 0.96}
SOFT, FAINT = "0.3", "#b0b0b0"
# Colours come first, dashes where they are used up.
DASHES = ("-", "--", ":", "-.")
# Where a point's name is tried, in units of its radius; above and left no stairs of a front run.
PLACES = ((0, 1), (-1, 1), (-1, 0), (1, 1), (1, 0), (0, -1), (-1, -1), (1, -1), (0, 2.5), (0, -2.5), (0, 4))


@dataclass(frozen=True, eq=False)
class Chart:
    """A drawing and its words.

    Attributes:
        title: above it.
        figure: the drawing.
        told: what it shows, for those who do not see it.
        caption: what to see in it.
    """

    title: str
    figure: Figure
    told: str
    caption: str = ""


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

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


def colour(style: int) -> str:
    """A style's colour, as matplotlib calls it."""
    return f"C{style % STYLES}"


def curves(
    title: str,
    lines: Sequence[Curve],
    xlabel: str,
    ylabel: str,
    *,
    log: bool = False,
    low: float | None = None,
    high: float | None = None,
    caption: str = "",
) -> Chart | None:
    """Curves over one axis; None where no line has a point that can be drawn."""
    drawable = lambda x, y: math.isfinite(x) and math.isfinite(y) and (y > 0 or not log)
    drawn = [Curve(one.name, [at for at in one.points if drawable(*at)], one.style, one.faint) for one in lines]
    drawn = [one for one in drawn if one.points]
    if not drawn:
        return None
    figure, axes = _plain(xlabel, ylabel)
    # The faint ones first: the named curve lies on top.
    for one in sorted(drawn, key=lambda one: not one.faint):
        last = one.points[-1]
        axes.plot(
            *zip(*one.points, strict=True), DASHES[one.style // STYLES % len(DASHES)], color=colour(one.style),
            linewidth=1.8, alpha=0.4 if one.faint else 1, marker="o" if len(one.points) == 1 else None, markersize=5,
            # A line along an edge, as at 0 or 100 %, lies whole on top of it.
            clip_on=False, zorder=3, gid=f"{TIP}{one.name}: {last[1]:.4g} at {last[0]:g}",
        )  # fmt: skip
    if log:
        axes.set_yscale("log")
        _decades(axes, [y for one in drawn for _, y in one.points])
    xs = [x for one in drawn for x, _ in one.points]
    _whole(axes, xs)
    axes.set_xlim(*((min(xs), max(xs)) if max(xs) > min(xs) else (xs[0] - 1, xs[0] + 1)))
    axes.set_ylim(low, high)
    ends = "; ".join(f"{one.name} ends at {one.points[-1][1]:.4g}" for one in drawn if not one.faint)
    return Chart(title, figure, f"{ylabel} against {xlabel}: {ends}.", caption)


def histogram(
    title: str,
    edges: tuple[float, float],
    shares: Sequence[tuple[str, int, Sequence[float], float]],
    xlabel: str,
    caption: str = "",
) -> Chart:
    """Histograms of logarithms laid over each other as outlines; exact zeros stand apart on the left.

    Args:
        title: of the chart.
        edges: decimal logarithms of the first and the last edge.
        shares: name, style, percent a bin, percent of exact zeros.
        xlabel: what is binned.
        caption: what to see in it.
    """
    figure = new_figure(WIDTH, HEIGHT, margins={**MARGINS, "left": 0.12, "wspace": 0.35})
    zero, spread = figure.subplots(1, 2, width_ratios=(1, 5))
    bins = len(shares[0][2])
    # Bins that are empty in all are cut off at both ends.
    used = [number for number in range(bins) if any(values[number] > 0 for _, _, values, _ in shares)]
    first, last = (used[0], used[-1] + 1) if used else (0, bins)
    step = (edges[1] - edges[0]) / bins
    at = [10 ** (edges[0] + (first + number) * step) for number in range(last - first + 1)]
    for number, (name, style, values, zeros) in enumerate(shares):
        told = f"{TIP}{name}: {zeros:.2f} % exactly zero"
        zero.bar(number, zeros, width=0.8, color=colour(style))[0].set_gid(told)
        spread.stairs(values[first:last], at, color=colour(style), linewidth=1.5).set_gid(f"{TIP}{name}")
    _quiet(zero, "", "exactly zero, %")
    _quiet(spread, xlabel, "percent of all")
    zero.set(xticks=[], ylim=(0, 100), xlabel="zero")
    spread.set(xscale="log", ylim=(0, None))
    spread.minorticks_off()
    told = "; ".join(f"{name}: {zeros:.1f} % exactly zero" for name, _, _, zeros in shares)
    return Chart(title, figure, f"Distribution of {xlabel}. {told}.", caption)


def bars(title: str, rows: Sequence[tuple[str, int, int]], style: int, caption: str = "") -> Chart:
    """One bar per layer: its width before as an outline, what stays filled.

    Args:
        title: of the chart.
        rows: layer, channels before, channels that stay.
        style: number of the colour.
        caption: what to see in it.
    """
    figure = new_figure(WIDTH, 0.2 + 0.26 * len(rows))
    axes = figure.subplots()
    for at, (name, before, left) in enumerate(rows):
        axes.barh(at, before, height=0.7, fill=False, edgecolor=SOFT, linewidth=0.7, linestyle=(0, (2, 2)))
        axes.barh(at, left, height=0.7, color=colour(style))[0].set_gid(
            f"{TIP}{name}: {left} of {before} channels stay"
        )
        told = f"{left} of {before}" if left != before else f"{before}"
        axes.annotate(told, (before, at), (4, 0), textcoords="offset points", va="center", fontsize=SMALL)
    widest = max((before for _, before, _ in rows), default=1)
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, 1.35 * widest), xticks=[])
    axes.set_yticks(range(len(rows)), [name if len(name) <= 22 else f"…{name[-21:]}" for name, *_ in rows])
    axes.tick_params(length=0, labelsize=SMALL)
    axes.spines[:].set_visible(False)
    told = "; ".join(f"{name} {left} of {before}" for name, before, left in rows)
    return Chart(title, figure, f"Channels that stay: {told}.", caption)


def scatter(
    title: str,
    points: Sequence[Point],
    xlabel: str,
    ylabel: str,
    *,
    fronts: Sequence[Sequence[Point]] = (),
    log: bool = False,
    caption: str = "",
) -> Chart:
    """Points with their names beside them, and Pareto fronts as stairs: nothing measured lies above and left of one."""
    from matplotlib.ticker import EngFormatter

    figure, axes = _plain(xlabel, ylabel)
    largest = max((point.size or 0 for point in points), default=0) or 1
    radii = [4.0 if point.size is None else max(3.0, 12 * math.sqrt(point.size / largest)) for point in points]
    for point, radius in zip(points, radii, strict=True):
        axes.errorbar(point.x, point.y, point.spread or None, color=colour(point.style), linewidth=1.5)
        told = point.detail or f"{point.label}: {point.y:.4g} at {point.x:.4g}"
        axes.plot(point.x, point.y, "o", markersize=2 * radius, color=colour(point.style), alpha=0.6, gid=TIP + told)
    axes.margins(x=0.12, y=0.22)
    if log:
        axes.set_xscale("log")
    else:
        axes.set_xlim(0, 1.14 * max((point.x for point in points), default=1) or 1)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    for front in fronts:
        ordered = sorted(front, key=lambda point: point.x)
        ends = axes.get_xlim()
        x, y = [*(point.x for point in ordered), ends[1]], [*(point.y for point in ordered), ordered[-1].y]
        axes.step(x, y, where="post", color=SOFT, linewidth=1.3, linestyle=(0, (3, 2)), gid=f"{TIP}front")
        axes.set_xlim(ends)
    _name(figure, axes, points, radii)
    listed = "; ".join(f"{point.label}: {point.y:.4g} at {point.x:.4g}" for point in points)
    return Chart(title, figure, f"{ylabel} against {xlabel}. {listed}.", caption)


def _name(figure: Figure, axes: Axes, points: Sequence[Point], radii: Sequence[float]) -> None:
    """Each point's name at the first place around it where nothing else stands; left out where there is none."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()
    unit = figure.dpi / 72
    taken = []
    for point, radius in zip(points, radii, strict=True):
        x, y = axes.transData.transform((point.x, point.y))
        taken.append(Bbox.from_bounds(x - radius * unit, y - radius * unit, 2 * radius * unit, 2 * radius * unit))
    room = axes.get_window_extent()
    for point, radius in zip(points, radii, strict=True):
        words = axes.annotate(
            point.label, (point.x, point.y), (0, 0), textcoords="offset points", fontsize=SMALL, weight="bold"
        )
        for across, up in PLACES:
            words.set_position((across * (radius + 3), up * (radius + 3)))
            words.set_horizontalalignment("center" if not across else "left" if across > 0 else "right")
            words.set_verticalalignment("center" if not up else "bottom" if up > 0 else "top")
            box = words.get_window_extent()
            if box.x0 >= room.x0 and box.x1 <= room.x1 and box.y0 >= room.y0 and not box.count_overlaps(taken):
                taken.append(box)
                break
        else:
            words.remove()


def confusion(title: str, counts: Sequence[Sequence[int]], classes: Sequence[str], caption: str = "") -> Chart:
    """A confusion matrix: rows are what a sample is, columns what it is taken for; shares of each row as colour.

    Args:
        title: of the chart.
        counts: (classes, classes) samples.
        classes: their names.
        caption: what to see in it.
    """
    from matplotlib.patches import Rectangle

    size = len(classes)
    figure = new_figure(WIDTH, WIDTH)
    axes = figure.subplots()
    short = [name if len(name) <= 12 else f"{name[:11]}…" for name in classes]
    for row, line in enumerate(counts):
        total = sum(line)
        for column, count in enumerate(line):
            if not count:
                continue
            tip = f"{TIP}{classes[row]} taken for {classes[column]}: {count} of {total}"
            look: dict[str, Any] = {"color": "C2" if row == column else "C3", "alpha": 0.1 + 0.45 * count / total}
            axes.add_patch(Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, linewidth=0, gid=tip, **look))
            if size <= 12:
                axes.text(column, row, f"{count}", ha="center", va="center", fontsize=SMALL)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal", xlabel="taken for", ylabel="is")
    if size <= 30:
        upright = max(map(len, short)) > 2
        axes.set_xticks(range(size), short, rotation=90 if upright else 0)
        axes.set_yticks(range(size), short)
    axes.tick_params(length=0, labelsize=SMALL if size <= 16 else 6)
    right = sum(counts[index][index] for index in range(size))
    worst = [
        (counts[row][column], f"{classes[row]} taken for {classes[column]} {counts[row][column]} times")
        for row in range(size)
        for column in range(size)
        if row != column and counts[row][column]
    ]
    told = "; ".join(words for _, words in sorted(worst, reverse=True)[:3]) or "no confusion"
    return Chart(title, figure, f"{right} of {sum(map(sum, counts))} right; {told}.", caption)


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


def _plain(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = new_figure(WIDTH, HEIGHT, margins=MARGINS)
    axes = figure.subplots()
    _quiet(axes, xlabel, ylabel)
    axes.yaxis.set_label_coords(-0.135, 0.5)
    return figure, axes


def _quiet(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Lines at the ordinate's marks, no frame, words of one size."""
    axes.set_xlabel(xlabel, fontsize=SMALL + 1)
    axes.set_ylabel(ylabel, fontsize=SMALL + 1)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(labelsize=SMALL, labelcolor=SOFT)
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)


def _whole(axes: Axes, values: Sequence[float]) -> None:
    """Only integers are marked where all values are such, as epochs are."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=all(value == int(value) for value in values)))


def _decades(axes: Axes, values: Sequence[float]) -> None:
    """Plain numbers beside a logarithmic axis, in between the powers of ten where there are few of these."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    span = math.log10(max(values) / min(values))
    axes.yaxis.set_major_locator(LogLocator(10, (1.0,) if span > 3 else (1.0, 3.0) if span > 1.5 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
