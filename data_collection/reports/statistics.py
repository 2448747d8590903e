"""All that the arm did in the episodes of a folder, a row a step: numbers alone, no pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_collection.episode import EpisodeError
from data_collection.formats.robonet_file import Trajectory, read_trajectory
from data_collection.storage.index import Row

_COLUMNS = 15  # of the table below


@dataclass(frozen=True)
class Census:
    """N steps of the episodes that were read, in their order."""

    table: NDArray[np.float32]  # (N, 15)
    n_episodes: int  # that were read
    unread: dict[str, str]  # files that could not be read, and why

    @property
    def moves_m(self) -> NDArray[np.float32]:
        """Applied dx, dy, dz (N, 3)."""
        return self.table[:, 0:3]

    @property
    def closes(self) -> NDArray[np.bool_]:
        """Whether the gripper was commanded to close or stay closed (N,)."""
        return self.table[:, 3] > 0

    @property
    def commanded_m(self) -> NDArray[np.float32]:
        """Dx, dy, dz as asked (N, 3), before the safety limits."""
        return self.table[:, 4:7]

    @property
    def hands_m(self) -> NDArray[np.float32]:
        """Where the hand was after each step (N, 3), in the base frame."""
        return self.table[:, 7:10]

    @property
    def measured_m(self) -> NDArray[np.float32]:
        """How the hand moved as it was measured (N, 3)."""
        return self.table[:, 10:13]

    @property
    def lasted_s(self) -> NDArray[np.float32]:
        """How long each step lasted (N,)."""
        return self.table[:, 13]

    @property
    def openings(self) -> NDArray[np.float32]:
        """Gripper opening after each step (N,), 1 is open."""
        return self.table[:, 14]


def take_census(folder: Path, rows: Sequence[Row], most: int, rng: np.random.Generator) -> Census:
    """Read the numbers of a folder's episodes; of more than `most`, those of as many that `rng` draws.

    An episode that cannot be read is told of and left out.
    """
    drawn = np.sort(rng.permutation(len(rows))[:most])
    tables: list[NDArray[np.float32]] = [np.empty((0, _COLUMNS), np.float32)]
    unread: dict[str, str] = {}
    for i in drawn:
        name = rows[i].file
        try:
            tables.append(_table(read_trajectory(folder / name)))
        except EpisodeError as error:
            unread[name] = str(error)
    return Census(np.concatenate(tables), len(tables) - 1, unread)


def _table(trajectory: Trajectory) -> NDArray[np.float32]:
    """Return one episode's rows (T, 15)."""
    own = trajectory.own
    if own is None:
        raise EpisodeError("expected an episode of this collection, got a file of others")
    states = own["env/state_si"]
    columns = [
        trajectory.actions[:, :3],
        np.where(trajectory.actions[:, 4] < 0.5, 1, -1),  # RoboNet's gripper: 1 opens, 0 closes
        own["policy/commanded_actions"][:, :3],
        states[1:, :3],
        np.diff(states[:, :3], axis=0),
        np.diff(own["env/timestamps"]),
        states[1:, 4],
    ]
    return np.column_stack(columns).astype(np.float32)
