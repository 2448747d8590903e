"""Charts as inline SVG, drawn by matplotlib: lines, dots, bars, columns, histograms and heat maps.

Equal input gives equal SVG. An empty chart is a sentence in place of the SVG. Every chart has a text for screen
readers.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from xml.sax.saxutils import quoteattr

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

COLORS = ("#2563eb", "#f59e0b", "#10b981", "#a855f7", "#ef4444", "#64748b")  # distinguishable with colour blindness
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))  # of the same lines
EMPTY = "<p>No data.</p>"


class TitledChart(NamedTuple):
    """A chart on a page, with what a reader needs to understand it."""

    title: str
    svg: str
    note: str  # a sentence or two below it


_WIDTH_INCH, _HEIGHT_INCH = 4.2, 2.1
_MAP_INCH = 3.2  # largest height of a heat map
_ROW_INCH = 0.26  # height of one horizontal bar
_LABEL_INCH = 0.075  # width of one character of a tick label
_SOFT, _LINE = "#64748b", "#e2e8f0"
_STYLE: dict[Any, Any] = {  # as the style of the pages
    "svg.fonttype": "none",  # text stays text, in the font of the page
    "svg.hashsalt": "chart",  # equal input, equal SVG
    "font.size": 8,
    "text.color": _SOFT,
    "axes.labelcolor": _SOFT,
    "axes.edgecolor": _LINE,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _LINE,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "legend.frameon": False,
}


def lines(series: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str) -> str:
    """Draw one line per series of (x, y) points over a vertical axis from zero.

    Points that are not finite, and series without a finite point, are left out. Lines differ by colour and by dashes.

    Returns:
        An `<svg>` element, or `EMPTY`.
    """
    finite = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in series.items()}
    finite = {name: points for name, points in finite.items() if points}
    if not finite:
        return EMPTY
    figure, axes = _figure(x_label, y_label)
    for color, dashes, (name, points) in zip(COLORS, _DASHES, finite.items(), strict=False):
        points_x, points_y = zip(*points, strict=True)
        (line,) = axes.plot(points_x, points_y, label=_text(name), marker="o", markersize=2.5, linewidth=1.5)
        line.set(color=color, linestyle=dashes)
    everything = [point for points in finite.values() for point in points]
    axes.set_xlim(0, max([1.0, *(x for x, _ in everything)]))
    axes.set_ylim(0, _top(max(y for _, y in everything)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure, axes, len(finite))
    return _svg(figure, f"Lines of {y_label} over {x_label}: {', '.join(finite)}")


def dots(
    rows: Sequence[tuple[str, Sequence[float]]], x_label: str, marked: tuple[str, float, str], largest: float
) -> str:
    """Draw one row of dots for each label and values, over a horizontal axis from zero; the first row is at the top.

    Values that are not finite, and rows without a finite value, are left out.

    Args:
        rows: Label and values.
        x_label: With the unit.
        marked: Label and value of the dot to mark, and the text at its mark.
        largest: Value near the right end of the axis.

    Returns:
        An `<svg>` element, or `EMPTY`.
    """
    finite = [(label, [value for value in values if math.isfinite(value)]) for label, values in rows]
    finite = [(label, values) for label, values in finite if values]
    if not finite:
        return EMPTY
    figure, axes = _figure(x_label, "", _ROW_INCH * len(finite) + 0.6)
    labels = [label for label, _ in finite]
    for i, (_, values) in enumerate(finite):
        axes.scatter(values, [i] * len(values), s=14, color=COLORS[0], alpha=0.35, linewidths=0)
    label, value, text = marked
    if label in labels and math.isfinite(value):
        place = (value, labels.index(label))
        axes.scatter(*place, s=46, facecolors="none", edgecolors=COLORS[4], linewidths=1.6, zorder=3)
        axes.annotate(
            _text(text), place, xytext=(0, 6), textcoords="offset points", size=8, color=COLORS[4], ha="center"
        )
    axes.set_yticks(range(len(labels)), [_text(label) for label in labels])
    axes.set_ylim(len(labels) - 0.5, -1.0)
    axes.set_xlim(0, _top(largest))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return _svg(figure, f"Dots of {x_label}: {', '.join(f'{label} ({len(values)})' for label, values in finite)}")


def bars(rows: Sequence[tuple[str, Mapping[str, float]]], unit: str) -> str:
    """Draw one horizontal bar per row, divided into its named parts, which are finite and not negative.

    Returns:
        An `<svg>` element, or `EMPTY`.
    """
    if not rows:
        return EMPTY
    names = list(dict.fromkeys(name for _, parts in rows for name in parts))
    figure, axes = _figure("", "", _ROW_INCH * len(rows) + 0.35)
    ends = np.zeros(len(rows))
    for i, name in enumerate(names):
        lengths = np.array([parts.get(name, 0.0) for _, parts in rows])
        axes.barh(range(len(rows)), lengths, left=ends, height=0.7, color=COLORS[i % len(COLORS)], label=_text(name))
        ends += lengths
    for i, end in enumerate(ends):
        axes.annotate(
            f"{end:.2f} {unit}", (end, i), xytext=(4, 0), textcoords="offset points", va="center", size=8, color=_SOFT
        )
    axes.set_yticks(range(len(rows)), [_text(label) for label, _ in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * float(ends.max()) or 1.0)  # room for the text behind the bars
    axes.xaxis.set_visible(False)
    axes.grid(visible=False)
    _legend(figure, axes, len(names))
    values = ", ".join(f"{label} {end:.2f} {unit}" for (label, _), end in zip(rows, ends, strict=True))
    return _svg(figure, f"Bars in {unit}: {values}")


def columns(heights: Sequence[tuple[str, float]], x_label: str, y_label: str) -> str:
    """Draw one vertical bar per label and height, which is finite and not negative.

    Returns:
        An `<svg>` element, or `EMPTY`. Where labels would overlap, only every n-th is drawn.
    """
    if not heights:
        return EMPTY
    figure, axes = _figure(x_label, y_label)
    values = [height for _, height in heights]
    axes.bar(range(len(heights)), values, width=0.8 if len(heights) < 60 else 1.0, color=COLORS[0])
    longest = max(len(label) for label, _ in heights)
    every = math.ceil(len(heights) * (longest + 1) * _LABEL_INCH / (0.85 * _WIDTH_INCH))
    axes.set_xticks(range(0, len(heights), every), [_text(label) for label, _ in heights[::every]])
    axes.set_xlim(-0.5, len(heights) - 0.5)
    axes.set_ylim(0, _top(max(values)))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return _svg(figure, f"Columns of {y_label} by {x_label}, at most {max(values):g}")


def histogram(series: Mapping[str, NDArray[np.floating]], edges: Sequence[float], x_label: str, counted: str) -> str:
    """Draw the percentage of the values of each series between each two edges.

    Values that are not finite are left out; values outside the edges count in the outermost interval.

    Args:
        series: Name to values.
        edges: At least two, rising, finite.
        x_label: With the unit.
        counted: What each value belongs to, in the plural.

    Returns:
        An `<svg>` element, or `EMPTY`.
    """
    finite = {name: values[np.isfinite(values)] for name, values in series.items()}
    finite = {name: values for name, values in finite.items() if values.size}
    if not finite:
        return EMPTY
    figure, axes = _figure(x_label, f"% of {counted}")
    highest = 0.0
    for color, (name, values) in zip(COLORS, finite.items(), strict=False):
        counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
        percent = 100 * counts / counts.sum()
        axes.stairs(percent, edges, color=color, alpha=0.2, fill=True)
        axes.stairs(percent, edges, color=color, label=_text(name))
        highest = max(highest, float(percent.max()))
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, _top(highest))
    _legend(figure, axes, len(finite))
    medians = ", ".join(f"{name} has the median {np.median(values):.3g}" for name, values in finite.items())
    return _svg(figure, f"Histogram of {x_label} in % of {counted}: {medians}")


def heat_map(counts: NDArray[np.floating], across: Sequence[float], up: Sequence[float], label: str) -> str:
    """Draw counts as a map with one scale for both axes; darker cells hold more, by the square root.

    Args:
        counts: (len(across) - 1, len(up) - 1), finite and not negative.
        across: Edges from left to right, rising or falling.
        up: Edges from bottom to top, rising or falling.
        label: Of the axes, with the unit.

    Returns:
        An `<svg>` element, or `EMPTY` where all counts are zero.
    """
    if not counts.any():
        return EMPTY
    wide, tall = abs(across[-1] - across[0]), abs(up[-1] - up[0])
    figure, axes = _figure(label, "", min(_MAP_INCH, 0.85 * _WIDTH_INCH * tall / wide) + 0.5)
    shades = LinearSegmentedColormap.from_list("shades", ["#ffffff", COLORS[0]])
    cells = np.ma.masked_equal(counts.T, 0)
    axes.pcolormesh(across, up, cells, cmap=shades, norm=PowerNorm(0.5, 0, float(counts.max())))
    axes.set_xlim(across[0], across[-1])
    axes.set_ylim(up[0], up[-1])
    axes.set_aspect("equal")
    axes.grid(visible=False)
    return _svg(figure, f"Map of counts over {label}")


def round_edges(values: NDArray[np.floating], n: int = 24) -> list[float]:
    """Return the edges of about `n` equal intervals between round numbers that contain all finite values."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return [0.0, 1.0]
    low, high = float(finite.min()), float(finite.max())
    step = _round_up(((high - low) or abs(high) or n) / n)
    first = math.floor(low / step + 1e-6)  # a rounding error needs no interval of its own
    last = max(first + 1, math.ceil(high / step - 1e-6))
    return [step * i for i in range(first, last + 1)]


def _round_up(rough: float) -> float:
    """Return the next of 1, 2, 2.5, 5 times a power of ten, from a number above 0."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)


def _top(high: float) -> float:
    """Return the upper end of a vertical axis from 0."""
    return 1.05 * high if high > 0 else 1.0


def _text(text: str) -> str:
    """Return text that matplotlib draws as it is."""
    return text.replace("$", r"\$")


def _figure(x_label: str, y_label: str, height_inch: float = _HEIGHT_INCH) -> tuple[Figure, Axes]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_INCH, height_inch), layout="constrained")
        axes = figure.subplots()
        axes.set_xlabel(_text(x_label))
        axes.set_ylabel(_text(y_label))
        axes.grid(axis="y")
        axes.tick_params(length=0)
    return figure, axes


def _legend(figure: Figure, axes: Axes, n: int) -> None:
    if n > 1:
        with mpl.rc_context(_STYLE):
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=min(n, 4))


def _svg(figure: Figure, label: str) -> str:
    """Return a figure as an `<svg>` element of variable width, with no ids but those that it refers to.

    Args:
        figure: The figure.
        label: What it shows, for screen readers.
    """
    file = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"\s*<(metadata|style|clipPath)\b.*?</\1>", "", text, flags=re.DOTALL)  # a style would apply to all
    text = re.sub(r' clip-path="[^"]*"| xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")  # as in HTML
    used = set(re.findall(r'href="#([^"]+)"', text))
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
    opening = f'<svg role="img" aria-label={quoteattr(" ".join(label.split()))}'
    return re.sub(r' width="[^"]*"| height="[^"]*"', "", text, count=2).replace("<svg", opening, 1)
