"""A small collection to export."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from data_collection.formats.robonet import write_episode
from tests.data_collection.episodes import SPEC, make_episode

LENGTHS = (6, 4, 5)  # actions of each


def names(folder: Path) -> list[str]:
    """Return the names in a folder."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three episode files whose frames differ from one another and from frame to frame."""
    folder = tmp_path_factory.mktemp("recorded")
    paths = []
    for seed, n_steps in enumerate(LENGTHS):
        episode = make_episode(n_steps, seed)
        paths.append(folder / f"lab_franka_play_traj{seed}.hdf5")
        write_episode(dataclasses.replace(episode, frames=np.roll(episode.frames, 40 * seed, 1)), paths[-1], SPEC)
    return paths
