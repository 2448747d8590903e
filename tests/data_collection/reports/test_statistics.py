"""Statistics of a collection folder, including damaged and missing files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_collection.reports.statistics import (
    by_time,
    duration,
    failed,
    longest_gap_s,
    read_step_statistics,
    size,
    summary_numbers,
)
from data_collection.storage import index, journal
from data_collection.storage.journal import JournalSummary, Value
from tests.data_collection.episodes import make_episode
from tests.data_collection.folders import BEGAN_S, episode_path, make_collection, row


def test_the_table_contains_the_recorded_values(tmp_path: Path) -> None:
    rows = index.read(make_collection(tmp_path, 2))
    statistics = read_step_statistics(tmp_path, rows, 10, np.random.default_rng(0))
    episodes = [make_episode(3, seed=number) for number in range(2)]
    assert statistics.n_episodes == 2 and not statistics.unread and len(statistics.table) == 6
    for name, expected in {
        "moves_m": [each.actions[:, :3] for each in episodes],
        "closes": [each.actions[:, 3] == 1 for each in episodes],
        "commanded_m": [each.commanded[:, :3] for each in episodes],
        "hands_m": [each.states[1:, :3] for each in episodes],
        "measured_m": [np.diff(each.states[:, :3], axis=0) for each in episodes],
        "lasted_s": [np.diff(each.times_s) for each in episodes],
        "openings": [each.states[1:, 4] for each in episodes],
    }.items():
        np.testing.assert_allclose(getattr(statistics, name), np.concatenate(expected), atol=1e-6, err_msg=name)
    assert 0 < statistics.closes.sum() < 6


@pytest.mark.parametrize(("most", "n_read"), [(0, 0), (2, 2), (5, 4)])
def test_at_most_the_requested_number_of_episodes_is_read(tmp_path: Path, most: int, n_read: int) -> None:
    rows = index.read(make_collection(tmp_path, 4))
    statistics = read_step_statistics(tmp_path, rows, most, np.random.default_rng(0))
    assert statistics.n_episodes == n_read and statistics.table.shape == (3 * n_read, 15)
    again = read_step_statistics(tmp_path, rows, most, np.random.default_rng(0))
    np.testing.assert_array_equal(statistics.table, again.table)


def test_a_damaged_episode_is_reported_and_omitted(tmp_path: Path) -> None:
    rows = index.read(make_collection(tmp_path, 2))
    path = episode_path(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-200])
    statistics = read_step_statistics(tmp_path, rows, 10, np.random.default_rng(0))
    assert statistics.n_episodes == 1 and len(statistics.table) == 3
    assert list(statistics.unread) == [path.name] and str(path) in statistics.unread[path.name]


def test_a_missing_episode_is_reported(tmp_path: Path) -> None:
    rows = index.read(make_collection(tmp_path, 1))
    episode_path(tmp_path, 0).unlink()
    statistics = read_step_statistics(tmp_path, rows, 10, np.random.default_rng(0))
    assert statistics.n_episodes == 0 and len(statistics.unread) == 1 and statistics.table.shape == (0, 15)


def _event(at_s: float, name: str, **values: Value) -> dict[str, Value]:
    return {"time_s": BEGAN_S + at_s, "event": name, **values}


def test_the_longest_gap_is_between_two_episodes() -> None:
    assert longest_gap_s([row(0, 0), row(1, 30), row(2, 100)], []) == 70
    assert longest_gap_s([row(0, 0)], []) == 0


def test_gaps_include_the_start_and_end_of_runs_but_not_the_time_between_them() -> None:
    rows = [row(0, 10), row(1, 20), row(2, 5000)]
    events = [_event(0, "started"), _event(60, "ended", why="stopped"), _event(4975, "started")]
    assert longest_gap_s(rows, events) == 40
    assert longest_gap_s(rows, [_event(0, "started"), _event(4990, "started")]) == 10  # the first run has no end event


def test_other_events_do_not_end_a_gap() -> None:
    assert longest_gap_s([row(0, 0), row(1, 30)], [_event(10, "dropped"), _event(15, "restarted")]) == 30


def test_attempts_are_counted_from_the_journal_or_else_from_the_episodes() -> None:
    rows = [row(0, 0, attempt=2), row(1, 30, attempt=1)]
    assert failed(rows, JournalSummary()) == 3
    events = [_event(0, "started"), *(_event(i, "dropped", kind="RobotFault") for i in range(4))]
    events += [_event(9, "quarantined", kind="bad_light"), _event(9, "lost", number=3)]
    assert failed(rows, journal.summarize(events)) == 6


def test_without_a_journal_run_statistics_are_omitted() -> None:
    rows = [row(0, 0, attempt=2), row(1, 36, recorded_s=7182.0)]
    assert dict(summary_numbers(rows, [], JournalSummary())) == {
        "Episodes": "2",
        "Hours recorded": "2.00",
        "Size": "0.0 MiB",
        "Attempts": "4",
        "Longest gap": "36.0 s",
    }


def test_with_a_journal_run_statistics_are_included() -> None:
    events = [_event(0, "started"), _event(20, "restarted"), _event(30, "swept"), _event(7200, "ended", why="a fault")]
    events += [_event(7200, "started"), _event(43200, "ended", why="done")]
    numbers = dict(summary_numbers([row(0, 10)], events, journal.summarize(events)))
    assert numbers["Hours on the clock"] == "12.00" and numbers["Interventions in 24 h"] == "2"
    assert numbers["Restarts"] == "1" and numbers["Table resets"] == "1" and numbers["Lost"] == "0"


@pytest.mark.parametrize(
    ("last_s", "name", "least", "most"),
    [
        (0.0, "minute", 1, 1),
        (3590.0, "minute", 60, 61),
        (4 * 3600.0, "hour", 5, 5),
        (120 * 3600.0, "hour", 121, 121),
        (30 * 86400.0, "day", 31, 31),
        (20000 * 86400.0, "50 days", 401, 401),  # an incorrect clock
    ],
)
def test_time_intervals_depend_on_the_duration_and_contain_every_episode(
    last_s: float, name: str, least: int, most: int
) -> None:
    rows = [row(0, 0), row(1, last_s / 3), row(2, last_s)]
    found, intervals = by_time(rows)
    assert found == name and least <= len(intervals) <= most
    assert [each.number for _, closed in intervals for each in closed] == [0, 1, 2]
    assert intervals[0][1][0] == rows[0] and intervals[-1][1][-1] == rows[-1]
    assert len({label for label, _ in intervals}) == len(intervals)


def test_numbers_have_suitable_units() -> None:
    assert [duration(seconds) for seconds in (0.0, 99.9, 100.0, 7200.0)] == ["0.0 s", "99.9 s", "1.7 min", "2.0 h"]
    assert [size(n) for n in (2**19, 3 * 2**30)] == ["0.5 MiB", "3.00 GiB"]
