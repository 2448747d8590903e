"""Sign of RoboNet's gripper commands: estimated per robot from the measured openings."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_collection.episode import EpisodeError
from data_collection.formats.robonet_file import RobonetTrajectory, read_trajectory

_CORRELATION_FLOOR = 0.3  # of command and next opening, below which the sign is not reliable; ours
_POOL_FILES = 64  # files of a robot, spread over its folder, from which the sign is estimated; ours


def closes(trajectory: RobonetTrajectory, path: Path) -> NDArray[np.bool_]:
    """Return which commands (T,) of a file from another lab close the gripper.

    A command that was imputed from the next state is high when it opens. What a commanded one means is a property of
    the robot, which one file alone may not show: it is decided by the correlation of command and next opening over
    the robot's files in the same folder.

    Args:
        trajectory: Of the file, with bounds.
        path: Of the file.

    Raises:
        EpisodeError: A constant gripper, or a robot whose gripper does not follow its commands.
    """
    commands, openings = _normalised(trajectory)
    if np.ptp(commands) == 0 or np.ptp(openings) == 0:
        raise EpisodeError("expected a gripper that moves, got a constant one, whose sign and use are unknown")
    high_closes = False if trajectory.is_gripper_imputed else _high_closes(path.parent, path.name, _robot(trajectory))
    return np.asarray((commands > 0.5) == high_closes)


def _normalised(trajectory: RobonetTrajectory) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return commands (T,) and the openings that followed them (T,), both in [0, 1] of the file's bounds."""
    if trajectory.bounds is None:
        raise EpisodeError("expected low_bound and high_bound, without which the gripper has no unit; got none")
    low, high = trajectory.bounds[0][4], trajectory.bounds[1][4]
    if not low < high:
        raise EpisodeError(f"expected a low_bound of the gripper below its high_bound, got {low:g} and {high:g}")
    commands, states = trajectory.actions[:, 4].astype(np.float64), trajectory.states[1:, 4].astype(np.float64)
    return (commands - low) / (high - low), np.clip((states - low) / (high - low), 0.0, 1.0)


def _robot(trajectory: RobonetTrajectory) -> str:
    return str(trajectory.metadata.get("robot", ""))


def _high_closes(folder: Path, name: str, robot: str) -> bool:
    match = re.match(r"[^_]+_[^_]+_", name)  # <lab>_<robot>_...traj<N>.hdf5 by custom
    correlation = _pooled_correlation(folder, match[0] if match else "", robot)
    if abs(correlation) < _CORRELATION_FLOOR:
        raise EpisodeError(
            f"expected gripper commands that the next states of robot '{robot}' follow, got a correlation of "
            f"{correlation:.2f} over its files"
        )
    return correlation < 0


@lru_cache(maxsize=256)
def _pooled_correlation(folder: Path, prefix: str, robot: str) -> float:
    paths = sorted(path for path in folder.glob("*.hdf5") if path.name.startswith(prefix))
    pools: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for path in paths[:: max(1, len(paths) // _POOL_FILES)]:
        with suppress(EpisodeError):  # reported where the file itself is read
            trajectory = read_trajectory(path)
            if trajectory.own is None and not trajectory.is_gripper_imputed and _robot(trajectory) == robot:
                pools.append(_normalised(trajectory))
    if not pools:
        return 0.0
    commands, openings = (np.concatenate(parts) for parts in zip(*pools, strict=True))
    if np.ptp(commands) == 0 or np.ptp(openings) == 0:
        return 0.0
    return float(np.corrcoef(commands, openings)[0, 1])
