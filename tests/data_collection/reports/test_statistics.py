"""The numbers of a folder: those of its files, of as many as are asked for, and never stopped by a damaged one."""

from pathlib import Path

import numpy as np
import pytest

from data_collection.reports.statistics import take_census
from data_collection.storage import index
from tests.data_collection.episodes import make_episode
from tests.data_collection.folders import episode_path, make_collection


def test_it_holds_what_was_recorded(tmp_path: Path) -> None:
    rows = index.read(make_collection(tmp_path, 2))
    census = take_census(tmp_path, rows, 10, np.random.default_rng(0))
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
def test_no_more_than_as_many_as_asked_for_are_read(tmp_path: Path, most: int, n_read: int) -> None:
    rows = index.read(make_collection(tmp_path, 4))
    census = take_census(tmp_path, rows, most, np.random.default_rng(0))
    assert census.n_episodes == n_read and census.table.shape == (3 * n_read, 15)
    again = take_census(tmp_path, rows, most, np.random.default_rng(0))
    np.testing.assert_array_equal(census.table, again.table)


def test_a_damaged_episode_is_told_of_and_left_out(tmp_path: Path) -> None:
    rows = index.read(make_collection(tmp_path, 2))
    path = episode_path(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-200])
    census = take_census(tmp_path, rows, 10, np.random.default_rng(0))
    assert census.n_episodes == 1 and len(census.table) == 3
    assert list(census.unread) == [path.name] and str(path) in census.unread[path.name]


def test_an_episode_that_is_gone_is_told_of(tmp_path: Path) -> None:
    rows = index.read(make_collection(tmp_path, 1))
    episode_path(tmp_path, 0).unlink()
    census = take_census(tmp_path, rows, 10, np.random.default_rng(0))
    assert census.n_episodes == 0 and len(census.unread) == 1 and census.table.shape == (0, 15)
