"""What the camera tells of an episode's scene: whether there is something to play with, and whether it moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_collection.policies.object_detection import BlobConfig, Blobs, find_blobs, within_reach
from data_collection.policies.random_policy import holds
from robot_bridge.robot import Observation, RobotSpec

MOVED_M = 0.03  # an object that was seen to go so far was moved; ours

_SAME_HUE = 8.0  # of OpenCV's 180: less far apart is the same thing; ours
_LIFTED_M = 0.06  # above the floor of the workspace, what is held touches nothing; ours
_SAME_SIZE = 0.6  # share of its area that a thing shows at least, else the arm covers it and its centre lies; ours


class Scenery(NamedTuple):
    """What one episode showed."""

    objects_seen: int  # coloured things within reach, at its beginning
    objects_moved_m: float  # the furthest that one of them was seen to go, on the table; 0 where none was seen again
    lifted: bool  # the gripper held something in the air


def survey(seen: Sequence[Observation], spec: RobotSpec, config: BlobConfig) -> Scenery:
    """Return what the observations of an episode, in order, showed."""
    before, after = (find_blobs(observation.image, spec.camera, config) for observation in (seen[0], seen[-1]))
    reachable = within_reach(before.places_m, spec.limits)
    floor_m = spec.limits.workspace_low_m[2]
    lifted = any(holds(observation) and observation.state[2] > floor_m + _LIFTED_M for observation in seen)
    return Scenery(int(reachable.sum()), _furthest_m(before, after, reachable), lifted)


def at_the_edge(seen: Observation, spec: RobotSpec, config: BlobConfig, share: float) -> NDArray[np.float64]:
    """Return where (M, 3) the things are that lie outside the middle of the workspace.

    Args:
        seen: With the arm out of the way.
        spec: Of the robot.
        config: What counts as a thing.
        share: How much of the workspace, along each of its sides, is the middle.
    """
    blobs = find_blobs(seen.image, spec.camera, config)
    low, high = np.array(spec.limits.workspace_low_m[:2]), np.array(spec.limits.workspace_high_m[:2])
    away = np.abs(blobs.places_m[:, :2] - (low + high) / 2) > share * (high - low) / 2
    return np.asarray(blobs.places_m[within_reach(blobs.places_m, spec.limits) & away.any(axis=1)])


def _furthest_m(before: Blobs, after: Blobs, reachable: NDArray[np.bool_]) -> float:
    """Return how far the thing that moved most is from the nearest one that looks like it."""
    furthest = 0.0
    areas = [np.count_nonzero(blobs.masks, axis=(1, 2)) for blobs in (before, after)]
    for i in np.flatnonzero(reachable):
        apart = np.abs(after.hues - before.hues[i])
        alike = (np.minimum(apart, 180 - apart) < _SAME_HUE) & (areas[1] > _SAME_SIZE * areas[0][i])
        if alike.any():
            ways = np.linalg.norm(after.places_m[alike, :2] - before.places_m[i, :2], axis=1)
            furthest = max(furthest, float(ways.min()))
    return round(furthest, 4)
