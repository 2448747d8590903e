"""Standard errors of means of dependent values."""

from __future__ import annotations

import numpy as np
import pytest

from ghvae_core.evaluation.statistics import estimate, groups_of, resample


def test_one_window_per_episode_has_the_standard_error_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=20)
    found = estimate(values, groups_of([f"e{i} 3" for i in range(20)]))
    assert found.value == pytest.approx(values.mean())
    assert found.standard_error == pytest.approx(values.std(ddof=1) / 20**0.5)


def test_the_error_is_the_standard_deviation_of_the_mean() -> None:
    """Ten strongly correlated windows of an episode have little more information than one."""
    rng = np.random.default_rng(0)
    groups = np.arange(12).repeat(10)
    drawn = rng.normal(size=(2000, 12)).repeat(10, axis=1) + 0.5 * rng.normal(size=(2000, 120))
    errors = np.array([estimate(values, groups).standard_error for values in drawn])
    assert np.sqrt((errors**2).mean()) == pytest.approx(drawn.mean(axis=1).std(), rel=0.05)


def test_windows_are_grouped_by_the_episode_in_their_names() -> None:
    assert groups_of(["b c.npz 0", "a.npz 12", "b c.npz 24"]).tolist() == [1, 0, 1]
    assert groups_of(["a.npz 0", "a.npz 12"]).tolist() == [0, 1], "one episode: each window is a group"


def test_complete_groups_are_drawn() -> None:
    groups = np.array([1, 0, 1, 2, 0, 1])
    rows = resample(groups, np.random.default_rng(1))
    counts = np.bincount(rows, minlength=6)
    assert all(len({*counts[groups == group]}) == 1 for group in range(3))
    assert sum(counts[groups == group][0] for group in range(3)) == 3
