"""Charts: well-formed, to scale, and never broken by a number that is not finite."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from data_collection.reports import chart


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


def _rects(markup: str) -> list[dict[str, float]]:
    names = ("x", "y", "width", "height")
    return [{name: float(rect.attrib[name]) for name in names} for rect in _svg(markup).iter("rect")]


def test_columns_stand_on_the_axis_and_are_as_high_as_their_values() -> None:
    low, none, high = _rects(chart.columns([("a", 2.0), ("b", 0.0), ("c", 4.0)], "things"))
    assert low["x"] < none["x"] < high["x"] and none["height"] == 0
    assert high["height"] == pytest.approx(2 * low["height"], abs=0.02)
    assert low["y"] + low["height"] == pytest.approx(166) == high["y"] + high["height"]


@pytest.mark.parametrize(("n", "n_labels"), [(1, 1), (8, 8), (200, 8)])
def test_only_labels_for_which_there_is_room_are_written(n: int, n_labels: int) -> None:
    markup = chart.columns([(f"{i:04d}", 1.0) for i in range(n)], "things")
    written = [text.text for text in _svg(markup).iter("text") if re.fullmatch(r"\d{4}", text.text or "")]
    assert len(_rects(markup)) == n and written[0] == "0000" and n_labels <= len(written) <= min(n, 10)


@pytest.mark.parametrize(
    "values", [[0.0], [3.0, 3.0], [-7.3, 12.1], [1e-7, 2e-7], [0.6, 0.848], [-1e6, 4.0], [math.nan, 5.0]]
)
def test_round_edges_hold_every_finite_value_in_about_as_many_equal_intervals(values: list[float]) -> None:
    edges = np.array(chart.round_edges(np.array(values), n=24))
    widths = np.diff(edges)
    finite = [value for value in values if math.isfinite(value)]
    slack = 1e-5 * widths[0]
    assert edges[0] <= min(finite) + slack and edges[-1] >= max(finite) - slack
    assert widths == pytest.approx(widths[0]) and widths[0] > 0 and len(widths) <= 26


def test_round_edges_of_nothing_are_usable() -> None:
    assert chart.round_edges(np.array([math.nan])) == [0.0, 1.0] == chart.round_edges(np.array([]))


def test_a_histogram_shows_shares_and_keeps_what_lies_beyond_in_its_outermost_intervals() -> None:
    values = np.array([-5.0, 0.5, 0.6, 1.5, 9.0, math.nan])
    ((first, *corners, last),) = _polygons(chart.histogram({"a": values}, [0, 1, 2, 3], "cm"))
    assert first == (52.0, 166.0) and last == (408.0, 166.0)  # on the axis, from edge to edge
    heights = [166 - y for _, y in corners[::2]]
    assert heights[0] == pytest.approx(3 * heights[1], abs=0.2) == pytest.approx(3 * heights[2], abs=0.2)
    assert heights[0] == pytest.approx(154 * 60 / 60, abs=0.2)  # 3 of 5 are 60 %, to where the axis reaches


def test_a_histogram_of_several_series_names_those_that_have_a_value() -> None:
    series = {"one": np.array([1.0]), "two": np.array([2.0]), "none": np.array([math.inf])}
    markup = chart.histogram(series, [0, 1, 2, 3], "cm")
    assert len(_polygons(markup)) == 2 and "one</span>" in markup and "two</span>" in markup and "none" not in markup
    assert "<svg" not in chart.histogram({"none": np.array([math.nan])}, [0, 1], "cm")


def test_a_map_puts_each_cell_in_its_place_darker_where_there_is_more() -> None:
    counts = np.array([[4.0, 0.0], [0.0, 1.0]])
    box, much, little = _rects(chart.heat_map(counts, [0, 10, 20], [0, 10, 20], "cm"))
    assert much["x"] == box["x"] and much["y"] > little["y"] and little["x"] > much["x"]  # the first is low on the left
    opacities = re.findall(r'fill-opacity="([\d.]+)"', chart.heat_map(counts, [0, 10, 20], [0, 10, 20], "cm"))
    assert opacities == ["1.00", "0.50"]


def test_a_map_with_falling_edges_is_mirrored_and_keeps_one_scale() -> None:
    counts = np.array([[1.0], [0.0], [0.0]])
    box, cell = _rects(chart.heat_map(counts, [30, 20, 10, 0], [0, 10], "cm"))
    assert cell["x"] == box["x"] and cell["width"] == pytest.approx(cell["height"], abs=0.2)
    assert "<svg" not in chart.heat_map(np.zeros((2, 2)), [0, 1, 2], [0, 1, 2], "cm")


def _polygons(markup: str) -> list[list[tuple[float, float]]]:
    _svg(markup)
    return _points("".join(re.findall(r"<polygon[^>]*>", markup)))
