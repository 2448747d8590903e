"""Charts as inline SVG: lines over steps, stacked bars, columns, distributions and maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

COLORS = ("#2563eb", "#f59e0b", "#10b981", "#a855f7", "#ef4444", "#64748b")  # told apart by colour-blind eyes too
_WIDTH, _HEIGHT = 420, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 34
_BAR, _GAP = 18, 8
_WIDEST = 40  # column
_CHARACTER = 7  # width of one, about
_MAP_HEIGHT = 300  # at most


class _Scale(NamedTuple):
    """A linear map from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def lines(series: Mapping[str, Sequence[tuple[float, float]]], x_label: str) -> str:
    """Draw one line a series of (x, y) points over a vertical axis from zero.

    Points that are not finite are left out, and so is a series without any other.

    Returns:
        An `<svg>` element; without a single finite point, a sentence that says so.
    """
    finite = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in series.items()}
    finite = {name: points for name, points in finite.items() if points}
    everything = [point for points in finite.values() for point in points]
    if not everything:
        return "<p>Nothing to draw.</p>"
    x_high = max([1.0, *(x for x, _ in everything)])
    parts, y = _frame(max(y for _, y in everything), x_label)
    x = _Scale(0, x_high, _LEFT, _WIDTH - _RIGHT)
    parts += [
        _text(x(tick), _HEIGHT - _BOTTOM + 14, f"{tick:g}")
        for tick in _ticks(x_high)
        if tick <= x_high and tick % 1 == 0
    ]
    for color, points in zip(COLORS, finite.values(), strict=False):
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="2.5" fill="{color}"/>' for a, b in points]
    return _svg(parts, _HEIGHT) + _legend(list(finite))


def bars(rows: Sequence[tuple[str, Mapping[str, float]]], unit: str) -> str:
    """Draw one horizontal bar a row, cut into its named parts, which are finite and not negative.

    Returns:
        An `<svg>` element; without rows, a sentence that says so.
    """
    if not rows:
        return "<p>Nothing to draw.</p>"
    names = list(dict.fromkeys(name for _, parts in rows for name in parts))
    color = dict(zip(names, COLORS * len(names), strict=False))
    longest = max(sum(parts.values()) for _, parts in rows)
    x = _Scale(0, longest or 1.0, _LEFT + 24, _WIDTH - 80)
    drawn = []
    for index, (label, parts) in enumerate(rows):
        top, at = index * (_BAR + _GAP), 0.0
        middle = top + _BAR / 2 + 4
        drawn.append(_text(_LEFT + 16, middle, label, "end"))
        for name, value in parts.items():
            width = x(at + value) - x(at)
            place = f'x="{x(at):.1f}" y="{top}" width="{width:.1f}" height="{_BAR}"'
            title = f"<title>{escape(name)}: {value:.3f} {escape(unit)}</title>"
            drawn.append(f'<rect {place} fill="{color[name]}">{title}</rect>')
            at += value
        drawn.append(_text(x(at) + 6, middle, f"{at:.2f} {unit}", "start"))
    return _svg(drawn, len(rows) * (_BAR + _GAP)) + _legend(names)


def columns(heights: Sequence[tuple[str, float]], x_label: str) -> str:
    """Draw one vertical bar for each label and height, which is finite and not negative.

    Returns:
        An `<svg>` element; without columns, a sentence that says so. Labels for which there is no room are left out.
    """
    if not heights:
        return "<p>Nothing to draw.</p>"
    parts, y = _frame(max(height for _, height in heights), x_label)
    x = _Scale(0, len(heights), _LEFT, _WIDTH - _RIGHT)
    longest = max(len(label) for label, _ in heights)
    every = math.ceil(len(heights) * (longest + 1) * _CHARACTER / (x.end - x.start))
    width = min(_WIDEST, (x(1) - x(0)) * (0.8 if len(heights) < 60 else 1.0))
    for index, (label, height) in enumerate(heights):
        place = f'x="{x(index + 0.5) - width / 2:.2f}" y="{y(height):.2f}"'
        size = f'width="{width:.2f}" height="{y.start - y(height):.2f}"'
        parts.append(f'<rect {place} {size} fill="{COLORS[0]}"><title>{escape(label)}: {height:g}</title></rect>')
        if index % every == 0:
            parts.append(_text(x(index + 0.5), _HEIGHT - _BOTTOM + 14, label))
    return _svg(parts, _HEIGHT)


def round_edges(values: NDArray[np.floating], n: int = 24) -> list[float]:
    """Return the edges of at most about `n` equal intervals between round numbers that hold all finite values."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return [0.0, 1.0]
    low, high = float(finite.min()), float(finite.max())
    step = _round_up(((high - low) or abs(high) or n) / n)
    first = math.floor(low / step + 1e-6)  # what is round but for the last bits needs no interval of its own
    last = max(first + 1, math.ceil(high / step - 1e-6))
    return [step * i for i in range(first, last + 1)]


def histogram(series: Mapping[str, NDArray[np.floating]], edges: Sequence[float], x_label: str) -> str:
    """Draw which share of the values of each series lies between each two edges, in per cent.

    Values that are not finite are left out; what lies beyond the edges is counted in the outermost interval.

    Args:
        series: Name to values.
        edges: Rising, at least two, finite.
        x_label: With the unit.

    Returns:
        An `<svg>` element; without a single finite value, a sentence that says so.
    """
    finite = {name: values[np.isfinite(values)] for name, values in series.items()}
    finite = {name: values for name, values in finite.items() if values.size}
    if not finite:
        return "<p>Nothing to draw.</p>"
    counts = {name: np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] for name, values in finite.items()}
    shares = {name: 100 * count / count.sum() for name, count in counts.items()}
    parts, y = _frame(max(float(share.max()) for share in shares.values()), x_label, "%")
    x = _Scale(edges[0], edges[-1], _LEFT, _WIDTH - _RIGHT)
    parts += [_text(x(tick), _HEIGHT - _BOTTOM + 14, f"{tick:g}") for tick in _within(edges[0], edges[-1])]
    for color, (name, share) in zip(COLORS, shares.items(), strict=False):
        corners = [f"{x(at):.1f},{y(height):.1f}" for at, height in _outline(edges, share)]
        title = f"<title>{escape(name)}: {finite[name].size} values, median {np.median(finite[name]):.3g}</title>"
        style = f'fill="{color}" fill-opacity="0.2" stroke="{color}" stroke-width="1.5"'
        parts.append(f'<polygon points="{" ".join(corners)}" {style}>{title}</polygon>')
    return _svg(parts, _HEIGHT) + (_legend(list(shares)) if len(shares) > 1 else "")


def heat_map(counts: NDArray[np.floating], across: Sequence[float], up: Sequence[float], label: str) -> str:
    """Draw a table of counts as a map, both axes to one scale: the more, the darker, by the square root.

    Args:
        counts: (len(across) - 1, len(up) - 1), finite and not negative.
        across: Edges from left to right, rising or falling.
        up: Edges from the bottom up, rising or falling.
        label: What the axes are, with the unit.

    Returns:
        An `<svg>` element; where nothing was counted, a sentence that says so.
    """
    if not counts.any():
        return "<p>Nothing to draw.</p>"
    wide, tall = abs(across[-1] - across[0]), abs(up[-1] - up[0])
    scale = min((_WIDTH - _LEFT - _RIGHT) / wide, _MAP_HEIGHT / tall)
    x = _Scale(across[0], across[-1], (_WIDTH - scale * wide) / 2, (_WIDTH + scale * wide) / 2)
    y = _Scale(up[0], up[-1], _TOP + scale * tall, _TOP)
    box = f'x="{x.start:.1f}" y="{_TOP}" width="{scale * wide:.1f}" height="{scale * tall:.1f}"'
    parts = [f'<rect {box} fill="none" stroke="#e2e8f0"/>']
    for i, j in np.argwhere(counts > 0):
        left, top = min(x(across[i]), x(across[i + 1])), min(y(up[j]), y(up[j + 1]))
        width, height = abs(x(across[i + 1]) - x(across[i])), abs(y(up[j + 1]) - y(up[j]))
        place = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"'
        parts.append(f'<rect {place} fill="{COLORS[0]}" fill-opacity="{(counts[i, j] / counts.max()) ** 0.5:.2f}"/>')
    parts += [_text(x(tick), y.start + 14, f"{tick:g}") for tick in _within(across[0], across[-1])]
    parts += [_text(x.start - 6, y(tick) + 4, f"{tick:g}", "end") for tick in _within(up[0], up[-1])]
    parts.append(_text(_WIDTH / 2, y.start + 30, label))
    return _svg(parts, y.start + _BOTTOM)


def _outline(edges: Sequence[float], heights: NDArray[np.floating]) -> list[tuple[float, float]]:
    """Return the corners of steps of these heights, from zero to zero."""
    steps = [(at, float(height)) for *ends, height in zip(edges, edges[1:], heights, strict=False) for at in ends]
    return [(edges[0], 0.0), *steps, (edges[-1], 0.0)]


def _frame(high: float, x_label: str, unit: str = "") -> tuple[list[str], _Scale]:
    """Return an empty chart whose vertical axis goes from 0 to at least `high`, and its scale."""
    ticks = _ticks(high)
    y = _Scale(0, ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    levels = [_level(y(tick), f"{tick:g} {unit}".strip()) for tick in ticks]
    return [*levels, _text((_LEFT + _WIDTH) / 2, _HEIGHT - 4, x_label)], y


def _ticks(high: float) -> list[float]:
    """Return about four round numbers from 0 to at least `high`."""
    if high <= 0:
        return [0.0, 1.0]
    step = _round_up(high / 4)
    return [step * i for i in range(math.ceil(high / step - 1e-9) + 1)]


def _within(one: float, other: float) -> list[float]:
    """Return about five round numbers between two that differ, in rising order."""
    low, high = min(one, other), max(one, other)
    step = _round_up((high - low) / 5)
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _round_up(rough: float) -> float:
    """Return the next of 1, 2, 2.5, 5 times a power of ten, from a number above 0."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)


def _level(y: float, label: str) -> str:
    line = f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e2e8f0"/>'
    return line + _text(_LEFT - 6, y + 4, label, "end")


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(parts: Sequence[str], height: float) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height:g}" role="img">{"".join(parts)}</svg>'


def _legend(names: Sequence[str]) -> str:
    keys = (f'<span><i style="background:{c}"></i>{escape(n)}</span>' for c, n in zip(COLORS, names, strict=False))
    return f'<p class="legend">{"".join(keys)}</p>'
