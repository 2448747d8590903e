"""The numbers of a folder: those of its files, of as many as are asked for, and never stopped by a damaged one."""

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


def test_it_holds_what_was_recorded(tmp_path: Path) -> None:
    rows = index.read(make_collection(tmp_path, 2))
    census = read_step_statistics(tmp_path, rows, 10, np.random.default_rng(0))
    episodes = [make_episode(3, seed=number) for number in range(2)]
    assert census.n_episodes == 2 and not census.unread and len(census.table) == 6
    for name, expected in {
        "moves_m": [each.actions[:, :3] for each in episodes],
        "closes": [each.actions[:, 3] == 1 for each in episodes],
        "commanded_m": [each.commanded[:, :3] for each in episodes],
        "hands_m": [each.states[1:, :3] for each in episodes],
        "measured_m": [np.diff(each.states[:, :3], axis=0) for each in episodes],
        "lasted_s": [np.diff(each.times_s) for each in episodes],
        "openings": [each.states[1:, 4] for each in episodes],
    }.items():
        np.testing.assert_allclose(getattr(census, name), np.concatenate(expected), atol=1e-6, err_msg=name)
    assert 0 < census.closes.sum() < 6


@pytest.mark.parametrize(("most", "n_read"), [(0, 0), (2, 2), (5, 4)])
def test_no_more_than_requested_are_read(tmp_path: Path, most: int, n_read: int) -> None:
    rows = index.read(make_collection(tmp_path, 4))
    census = read_step_statistics(tmp_path, rows, most, np.random.default_rng(0))
    assert census.n_episodes == n_read and census.table.shape == (3 * n_read, 15)
    again = read_step_statistics(tmp_path, rows, most, np.random.default_rng(0))
    np.testing.assert_array_equal(census.table, again.table)


def test_a_damaged_episode_is_reported_and_left_out(tmp_path: Path) -> None:
    rows = index.read(make_collection(tmp_path, 2))
    path = episode_path(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-200])
    census = read_step_statistics(tmp_path, rows, 10, np.random.default_rng(0))
    assert census.n_episodes == 1 and len(census.table) == 3
    assert list(census.unread) == [path.name] and str(path) in census.unread[path.name]


def test_an_episode_that_is_gone_is_reported(tmp_path: Path) -> None:
    rows = index.read(make_collection(tmp_path, 1))
    episode_path(tmp_path, 0).unlink()
    census = read_step_statistics(tmp_path, rows, 10, np.random.default_rng(0))
    assert census.n_episodes == 0 and len(census.unread) == 1 and census.table.shape == (0, 15)


def _event(at_s: float, name: str, **told: Value) -> dict[str, Value]:
    return {"time_s": BEGAN_S + at_s, "event": name, **told}


def test_the_longest_gap_is_between_two_episodes() -> None:
    assert longest_gap_s([row(0, 0), row(1, 30), row(2, 100)], []) == 70
    assert longest_gap_s([row(0, 0)], []) == 0


def test_the_night_between_two_runs_is_no_gap_but_waiting_for_a_first_and_after_a_last_episode_is() -> None:
    rows = [row(0, 10), row(1, 20), row(2, 5000)]
    events = [_event(0, "started"), _event(60, "ended", why="stopped"), _event(4975, "started")]
    assert longest_gap_s(rows, events) == 40
    assert longest_gap_s(rows, [_event(0, "started"), _event(4990, "started")]) == 10  # the first run just broke off


def test_what_happened_besides_ends_no_gap() -> None:
    assert longest_gap_s([row(0, 0), row(1, 30)], [_event(10, "dropped"), _event(15, "restarted")]) == 30


def test_attempts_are_counted_from_the_journal_and_else_from_the_episodes() -> None:
    rows = [row(0, 0, attempt=2), row(1, 30, attempt=1)]
    assert failed(rows, JournalSummary()) == 3
    events = [_event(0, "started"), *(_event(i, "dropped", kind="RobotFault") for i in range(4))]
    events += [_event(9, "quarantined", kind="bad_light"), _event(9, "lost", number=3)]
    assert failed(rows, journal.summarize(events)) == 6


def test_without_a_journal_runs_are_left_out() -> None:
    rows = [row(0, 0, attempt=2), row(1, 36, recorded_s=7182.0)]
    assert dict(summary_numbers(rows, [], JournalSummary())) == {
        "Episodes": "2",
        "Hours recorded": "2.00",
        "Size": "0.0 MiB",
        "Attempts": "4",
        "Longest gap": "36.0 s",
    }


def test_with_a_journal_runs_are_included() -> None:
    events = [_event(0, "started"), _event(20, "restarted"), _event(30, "swept"), _event(7200, "ended", why="a fault")]
    events += [_event(7200, "started"), _event(43200, "ended", why="done")]
    told = dict(summary_numbers([row(0, 10)], events, journal.summarize(events)))
    assert told["Hours running"] == "12.00" and told["Interventions in 24 h"] == "2"
    assert told["Restarts"] == "1" and told["Table resets"] == "1" and told["Lost"] == "0"


@pytest.mark.parametrize(
    ("last_s", "name", "least", "most"),
    [
        (0.0, "minute", 1, 1),
        (3590.0, "minute", 60, 61),
        (4 * 3600.0, "hour", 5, 5),
        (120 * 3600.0, "hour", 121, 121),
        (30 * 86400.0, "day", 31, 31),
        (20000 * 86400.0, "50 days", 401, 401),  # a clock that stood wrong
    ],
)
def test_stretches_of_time_fit_how_long_it_lasted_and_hold_every_episode(
    last_s: float, name: str, least: int, most: int
) -> None:
    rows = [row(0, 0), row(1, last_s / 3), row(2, last_s)]
    found, stretches = by_time(rows)
    assert found == name and least <= len(stretches) <= most
    assert [each.number for _, closed in stretches for each in closed] == [0, 1, 2]
    assert stretches[0][1][0] == rows[0] and stretches[-1][1][-1] == rows[-1]
    assert len({label for label, _ in stretches}) == len(stretches)


def test_numbers_are_said_in_units_that_fit() -> None:
    assert [duration(seconds) for seconds in (0.0, 99.9, 100.0, 7200.0)] == ["0.0 s", "99.9 s", "1.7 min", "2.0 h"]
    assert [size(n) for n in (2**19, 3 * 2**30)] == ["0.5 MiB", "3.00 GiB"]
