"""Charts: well-formed, to scale, and never broken by a number that is not finite."""

import math
import re
from xml.etree import ElementTree

import pytest

from data_collection import chart


def _svg(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{markup}</div>")  # noqa: S314 - our own text


def _points(markup: str) -> list[list[tuple[float, float]]]:
    lines = re.findall(r'points="([^"]*)"', markup)
    return [[tuple(map(float, point.split(","))) for point in line.split()] for line in lines]  # type: ignore[misc]


def test_lines_rise_with_their_values_and_keep_their_order() -> None:
    markup = chart.lines({"a": [(0, 0.0), (5, 10.0)], "b": [(0, 5.0)]}, "steps")
    _svg(markup)
    (start, end), (middle,) = _points(markup)
    assert start[0] < end[0] and end[1] < middle[1] < start[1]
    assert middle[1] == pytest.approx((start[1] + end[1]) / 2, abs=0.2)


def test_points_that_are_not_finite_are_left_out() -> None:
    markup = chart.lines({"a": [(0, math.nan), (1, 2.0), (2, math.inf)]}, "steps")
    assert "nan" not in markup and "inf" not in markup and len(_points(markup)[0]) == 1


def test_a_series_without_a_finite_point_is_not_in_the_legend() -> None:
    markup = chart.lines({"one": [(0, 1.0)], "none": [], "unknown": [(0, math.nan)]}, "steps")
    assert len(_points(markup)) == 1 and "one" in markup and "none</span>" not in markup and "unknown" not in markup


@pytest.mark.parametrize("points", [[], [(0.0, math.nan)]])
def test_without_a_point_there_is_a_sentence(points: list[tuple[float, float]]) -> None:
    assert "<svg" not in chart.lines({"a": points}, "steps")
    assert "<svg" not in chart.bars([], "s")


@pytest.mark.parametrize("value", [0.0, 1e-9, 0.3, 7.0, 1e6])
def test_the_axis_reaches_the_highest_value_at_round_numbers(value: float) -> None:
    markup = chart.lines({"a": [(0, value), (5, 0.0)]}, "steps")
    svg = _svg(markup).find("svg")
    assert svg is not None and svg.attrib["viewBox"] == "0 0 420 200"
    levels = [{name: float(line.attrib[name]) for name in ("x1", "x2", "y1", "y2")} for line in svg.iter("line")]
    assert levels[0] == {"x1": 52, "x2": 408, "y1": 166, "y2": 166} and levels[-1]["y1"] == 12  # the plot box
    labels = [float(text.text or "") for text in list(svg.iter("text"))[: len(levels)]]
    assert labels[0] == 0 and labels[-1] >= value and 2 <= len(labels) <= 6
    ((x, y), end) = _points(markup)[0]
    assert x == 52 and end == (408, 166)
    assert y == pytest.approx(166 - value / labels[-1] * (166 - 12), abs=0.1)


def test_bars_are_as_long_as_their_parts() -> None:
    markup = chart.bars([("one", {"predict": 1.0, "execute": 3.0}), ("two", {"predict": 2.0})], "s")
    widths = [float(rect.attrib["width"]) for rect in _svg(markup).iter("rect")]
    assert widths[1] == pytest.approx(3 * widths[0], abs=0.3) and widths[2] == pytest.approx(2 * widths[0], abs=0.3)
    assert "4.00 s" in markup


def test_labels_are_escaped() -> None:
    _svg(chart.bars([("<b>", {"<i> & co": 1.0})], "s"))
    _svg(chart.lines({"<i>": [(0, 1)]}, "<b>"))
