"""Charts as inline SVG: lines over steps, and stacked bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

COLORS = ("#2563eb", "#f59e0b", "#10b981", "#a855f7", "#ef4444", "#64748b")  # told apart by colour-blind eyes too
_WIDTH, _HEIGHT = 420, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 34
_BAR, _GAP = 18, 8


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
    ticks = _ticks(max(y for _, y in everything))
    x = _Scale(0, x_high, _LEFT, _WIDTH - _RIGHT)
    y = _Scale(0, ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = [_level(y(tick), f"{tick:g}") for tick in ticks]
    parts += [
        _text(x(tick), _HEIGHT - _BOTTOM + 14, f"{tick:g}")
        for tick in _ticks(x_high)
        if tick <= x_high and tick % 1 == 0
    ]
    parts.append(_text((_LEFT + _WIDTH) / 2, _HEIGHT - 4, x_label))
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


def _ticks(high: float) -> list[float]:
    """Return about four round numbers from 0 to at least `high`."""
    if high <= 0:
        return [0.0, 1.0]
    rough = high / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return [step * i for i in range(math.ceil(high / step - 1e-9) + 1)]


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
