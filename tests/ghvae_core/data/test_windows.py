"""Frames of many files, and windows drawn from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ghvae_core.data.windows import Frames, end_to_end
from tests.ghvae_core.small import EPISODE_FRAMES, N_FRAMES, small_windows

PARTS = [np.random.default_rng(n).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8) for n in (3, 0, 1, 5)]
WHOLE = np.concatenate(PARTS)


def test_frames_of_many_files_are_as_one_array() -> None:
    frames = Frames(PARTS)
    assert len(frames) == 9 and frames.shape == WHOLE.shape
    rows = np.random.default_rng(0).integers(0, 9, (5, 7))
    for index in (rows, rows[0], rows[:, :0], slice(2, 7), slice(None), slice(-2, None), slice(20, 30)):
        np.testing.assert_array_equal(frames[index], WHOLE[index])


@pytest.mark.parametrize("row", [-1, 9])
def test_a_row_out_of_range_is_an_error(row: int) -> None:
    with pytest.raises(IndexError, match="rows from 0 to 8"):
        Frames(PARTS)[np.array([0, row])]


def test_a_single_array_is_returned_itself() -> None:
    assert end_to_end([PARTS[1], PARTS[0]]) is PARTS[0]
    assert end_to_end([PARTS[1]]) is PARTS[1]
    assert isinstance(end_to_end(PARTS), Frames)


def test_windows_are_within_one_episode_and_time_first() -> None:
    windows = small_windows()
    frames, actions, rows = windows.batch(np.arange(len(windows.starts)))
    assert frames.shape[:2] == (N_FRAMES, len(windows.starts))
    assert actions.shape == (N_FRAMES - 1, len(windows.starts), 4)
    assert (rows[0] // EPISODE_FRAMES == rows[-1] // EPISODE_FRAMES).all()
    np.testing.assert_array_equal(frames[2, 1], windows.frames[windows.starts[1] + 2 : windows.starts[1] + 3][0])
    np.testing.assert_array_equal(actions[2, 1], windows.actions[windows.starts[1] + 2])


def test_windows_of_one_folder_are_drawn_evenly() -> None:
    windows = small_windows()
    n = len(windows.starts)
    drawn = windows.draw(np.random.default_rng(0), 400 * n)
    assert drawn.dtype == np.int64 and drawn.shape == (400 * n,)
    assert np.bincount(drawn, minlength=n).min() > 300 and np.bincount(drawn).max() < 500
    np.testing.assert_array_equal(drawn, windows.draw(np.random.default_rng(0), 400 * n))


@pytest.mark.parametrize(("fractions", "first"), [((1.0, 1.0), 0.5), ((3.0, 1.0), 0.75), ((0.0, 1.0), 0.0)])
def test_folders_are_drawn_by_their_fractions_independent_of_size(fractions: tuple[float, ...], first: float) -> None:
    windows = small_windows()
    n = len(windows.starts)
    mixed = replace(windows, folder_sizes=(2, n - 2), folder_fractions=fractions)
    drawn = mixed.draw(np.random.default_rng(0), 4000)
    assert np.mean(drawn < 2) == pytest.approx(first, abs=0.03)
    assert set(drawn.tolist()) == set(range(0 if first else 2, n))


def test_a_folder_without_windows_is_never_drawn() -> None:
    windows = small_windows()
    mixed = replace(windows, folder_sizes=(0, len(windows.starts)), folder_fractions=(1.0, 1.0))
    assert len(mixed.draw(np.random.default_rng(0), 50)) == 50
