from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.ghvae_core.small import EPISODE_FRAMES, N_FRAMES, small_windows


def test_windows_lie_within_one_episode_and_come_time_first() -> None:
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


@pytest.mark.parametrize(("shares", "first"), [((1.0, 1.0), 0.5), ((3.0, 1.0), 0.75), ((0.0, 1.0), 0.0)])
def test_folders_are_drawn_by_their_shares_whatever_their_sizes(shares: tuple[float, ...], first: float) -> None:
    windows = small_windows()
    n = len(windows.starts)
    mixed = replace(windows, folder_sizes=(2, n - 2), shares=shares)
    drawn = mixed.draw(np.random.default_rng(0), 4000)
    assert np.mean(drawn < 2) == pytest.approx(first, abs=0.03)
    assert set(drawn.tolist()) == set(range(0 if first else 2, n))


def test_a_folder_without_windows_is_never_drawn() -> None:
    windows = small_windows()
    mixed = replace(windows, folder_sizes=(0, len(windows.starts)), shares=(1.0, 1.0))
    assert len(mixed.draw(np.random.default_rng(0), 50)) == 50
