"""Means and standard errors, clustered by episode: windows of one episode are not independent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from configs.loader import Config


class Estimate(Config):
    """A value and its standard error over episodes."""

    value: float
    standard_error: float


def groups_of(windows: Sequence[str]) -> NDArray[np.int64]:
    """Return the index of each window's episode (N,); if all are from one episode, each window is a group of its own.

    Args:
        windows: Names as in `Clips`, the episode first.
    """
    episodes = [name.rpartition(" ")[0] for name in windows]
    numbers = np.unique(episodes, return_inverse=True)[1]
    return np.asarray(numbers if numbers.any() else np.arange(len(episodes)), np.int64)


def estimate(values: NDArray[np.float64], groups: NDArray[np.int64]) -> Estimate:
    """Return the mean of values (N,), N at least 2, and its standard error, clustered by group.

    The error is that of Liang and Zeger 1986 with the factor G / (G - 1) for G groups; with one value a group it is the
    standard deviation over the root of N.
    """
    sums = np.bincount(groups, values - values.mean())
    variance = len(sums) / (len(sums) - 1) * (sums**2).sum() / len(values) ** 2
    return Estimate(value=float(values.mean()), standard_error=float(variance**0.5))


def resample(groups: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the places of a bootstrap sample: as many whole groups as there are, drawn with replacement."""
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
    return np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
