"""Charts: valid SVG, scale, and values that are not finite."""

import math
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, StepPatch

from data_collection.reports import chart
from data_collection.reports.chart import EMPTY


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the axes of the charts that the test draws."""
    axes: list[Any] = []
    real = chart._svg

    def record_axes(figure: Figure, label: str) -> str:
        axes.extend(figure.axes)
        return real(figure, label)

    monkeypatch.setattr(chart, "_svg", record_axes)
    return axes


def _texts(markup: str) -> list[str]:
    svg = ElementTree.fromstring(markup)  # noqa: S314 - produced by the test
    assert svg.tag == "svg"
    return ["".join(text.itertext()) for text in svg.iter("text")]


def test_a_chart_has_no_external_references_and_is_deterministic() -> None:
    markup = chart.lines({"a": [(0, 0.0), (5, 10.0)], "b": [(0, 5.0)]}, "steps", "y")
    assert markup == chart.lines({"a": [(0, 0.0), (5, 10.0)], "b": [(0, 5.0)]}, "steps", "y")
    assert "http" not in markup and "url(" not in markup and "<style" not in markup and "width=" not in markup[:80]
    ids = re.findall(r' id="([^"]*)"', markup)
    assert len(ids) == len(set(ids)) and set(re.findall(r'href="#([^"]*)"', markup)) == set(ids)


def test_lines_show_their_points_over_an_axis_from_zero(drawn: list[Any]) -> None:
    texts = _texts(chart.lines({"a": [(0, 0.0), (5, 10.0)], "b": [(0, 5.0)]}, "steps", "y"))
    (axes,) = drawn
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[0, 0], [5, 10]], [[0, 5]]]
    assert axes.get_xlim() == (0, 5) and axes.get_ylim() == (0, 10.5)
    assert {"a", "b", "steps"} <= set(texts)


def test_points_that_are_not_finite_are_omitted(drawn: list[Any]) -> None:
    markup = chart.lines({"a": [(0, math.nan), (1, 2.0), (2, math.inf)]}, "steps", "y")
    assert "nan" not in markup and "inf" not in markup
    assert drawn[0].lines[0].get_xydata().tolist() == [[1, 2]]


def test_a_series_without_a_finite_point_is_not_in_the_legend() -> None:
    texts = _texts(
        chart.lines({"one": [(0, 1.0)], "two": [(0, 1.0)], "none": [], "unknown": [(0, math.nan)]}, "x", "y")
    )
    assert {"one", "two"} <= set(texts) and not {"none", "unknown"} & set(texts)


@pytest.mark.parametrize("points", [[], [(0.0, math.nan)]])
def test_charts_without_data_contain_a_message(points: list[tuple[float, float]]) -> None:
    assert chart.lines({"a": points}, "steps", "y") == chart.bars([], "s") == chart.columns([], "x", "y") == EMPTY
    assert chart.histogram({"none": np.array([math.nan])}, [0, 1], "cm", "steps") == EMPTY
    assert chart.heat_map(np.zeros((2, 2)), [0, 1, 2], [0, 1, 2], "cm") == EMPTY


@pytest.mark.parametrize("value", [0.0, 1e-9, 0.3, 7.0, 1e6])
def test_the_axis_includes_the_highest_value(value: float, drawn: list[Any]) -> None:
    _texts(chart.lines({"a": [(0, value), (5, 0.0)]}, "steps", "y"))
    low, high = drawn[0].get_ylim()
    assert low == 0 and high >= value and high > 0


def test_dots_are_drawn_in_rows_with_one_marked(drawn: list[Any]) -> None:
    texts = _texts(
        chart.dots([("use", [1.0, 2.0]), ("<b>", [math.nan, 3.0]), ("none", [])], "cost", ("use", 1.0, "$c$"), 3.0)
    )
    every, below, mark = (dots.get_offsets().tolist() for dots in drawn[0].collections)
    assert every == [[1, 0], [2, 0]] and below[-1] == [3, 1] and mark == [[1, 0]]
    assert {"use", "<b>", "cost", "$c$"} <= set(texts) and "none" not in texts
    assert chart.dots([("use", [math.inf])], "cost", ("use", math.inf, ""), 0.0) == EMPTY


def test_each_chart_has_a_text_for_screen_readers() -> None:
    markup = chart.lines({"a & <b>": [(0, 1.0)]}, "steps", "cost")
    svg = ElementTree.fromstring(markup)  # noqa: S314 - produced by the test
    assert svg.get("role") == "img" and svg.get("aria-label") == "Lines of cost over steps: a & <b>"


def _rectangles(axes: Any) -> list[Rectangle]:
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def test_the_lengths_of_bars_are_the_values_of_their_parts(drawn: list[Any]) -> None:
    texts = _texts(chart.bars([("one", {"predict": 1.0, "execute": 3.0}), ("two", {"predict": 2.0})], "s"))
    assert [(bar.get_x(), bar.get_width()) for bar in _rectangles(drawn[0])] == [(0, 1), (0, 2), (1, 3), (2, 0)]
    assert {"one", "two", "predict", "execute", "4.00 s", "2.00 s"} <= set(texts)


def test_labels_are_not_interpreted_as_markup() -> None:
    assert {"<b>", "<i> & co", "$x$"} <= set(_texts(chart.bars([("<b>", {"<i> & co": 1.0, "$x$": 1.0})], "s")))
    assert "<b> $y$" in _texts(chart.lines({"<i>": [(0, 1)]}, "<b> $y$", "y"))


def test_the_heights_of_columns_are_their_values(drawn: list[Any]) -> None:
    chart.columns([("a", 2.0), ("b", 0.0), ("c", 4.0)], "objects", "y")
    bars = _rectangles(drawn[0])
    assert [bar.get_height() for bar in bars] == [2, 0, 4] and all(bar.get_y() == 0 for bar in bars)
    assert [bar.get_x() + bar.get_width() / 2 for bar in bars] == [0, 1, 2]


@pytest.mark.parametrize(("n", "n_labels"), [(1, 1), (8, 8), (200, 8)])
def test_labels_without_room_are_omitted(n: int, n_labels: int, drawn: list[Any]) -> None:
    texts = _texts(chart.columns([(f"{i:04d}", 1.0) for i in range(n)], "objects", "y"))
    written = [text for text in texts if re.fullmatch(r"\d{4}", text)]
    assert len(_rectangles(drawn[0])) == n and written[0] == "0000" and n_labels <= len(written) <= min(n, 10)


@pytest.mark.parametrize(
    "values", [[0.0], [3.0, 3.0], [-7.3, 12.1], [1e-7, 2e-7], [0.6, 0.848], [-1e6, 4.0], [math.nan, 5.0]]
)
def test_round_edges_contain_all_finite_values_in_about_n_equal_intervals(values: list[float]) -> None:
    edges = np.array(chart.round_edges(np.array(values), n=24))
    widths = np.diff(edges)
    finite = [value for value in values if math.isfinite(value)]
    slack = 1e-5 * widths[0]
    assert edges[0] <= min(finite) + slack and edges[-1] >= max(finite) - slack
    assert widths == pytest.approx(widths[0]) and widths[0] > 0 and len(widths) <= 26


def test_round_edges_without_values_are_valid() -> None:
    assert chart.round_edges(np.array([math.nan])) == [0.0, 1.0] == chart.round_edges(np.array([]))


def _stairs(axes: Any) -> list[Any]:
    """Return the heights of each outline."""
    steps: list[Any] = [patch for patch in axes.patches if isinstance(patch, StepPatch)]
    return [step.get_data().values.tolist() for step in steps if not step.get_fill()]


def test_a_histogram_shows_percentages_and_includes_outside_values_in_the_outermost_intervals(drawn: list[Any]) -> None:
    values = np.array([-5.0, 0.5, 0.6, 1.5, 9.0, math.nan])
    chart.histogram({"a": values}, [0, 1, 2, 3], "cm", "steps")
    assert _stairs(drawn[0]) == [pytest.approx([60, 20, 20])] and drawn[0].get_xlim() == (0, 3)


def test_the_legend_of_a_histogram_omits_series_without_values(drawn: list[Any]) -> None:
    series = {"one": np.array([1.0]), "two": np.array([2.0]), "none": np.array([math.inf])}
    texts = _texts(chart.histogram(series, [0, 1, 2, 3], "cm", "steps"))
    assert len(_stairs(drawn[0])) == 2 and {"one", "two"} <= set(texts) and "none" not in texts


def test_a_heat_map_places_cells_by_position_and_colours_them_by_count(drawn: list[Any]) -> None:
    chart.heat_map(np.array([[4.0, 0.0], [0.0, 1.0]]), [0, 10, 20], [0, 10, 20], "cm")
    (cells,) = drawn[0].collections
    assert cells.get_array().tolist() == [[4.0, None], [None, 1.0]]  # rows from below
    assert cells.norm(4.0) == 1 and cells.norm(1.0) == 0.5


def test_a_heat_map_with_descending_edges_is_mirrored_with_equal_scales(drawn: list[Any]) -> None:
    chart.heat_map(np.array([[1.0], [0.0], [0.0]]), [30, 20, 10, 0], [0, 10], "cm")
    assert drawn[0].get_xlim() == (30, 0) and drawn[0].get_aspect() == 1
