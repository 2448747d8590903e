"""Keeping a table worth playing on, without a person: drops at random places, and sweeps back to the middle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from configs.loader import Config
from data_collection.policies.object_detection import ObjectDetectionConfig, SceneActivity, is_holding, objects_at_edge
from data_collection.policies.waypoints import Waypoint, walk
from robot_bridge.robot import CLOSE, OPEN, Observation, Robot

_CORNERS = ((0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 0.0))  # of the workspace, as shares of its sides


class TableResetConfig(Config):
    """When and how the table is tidied. Only on a table that stays: a simulated scene may be drawn anew instead."""

    renamed_keys: ClassVar[Mapping[str, str]] = {
        "dull_after": "idle_episodes_before_reset",
        "dull_m": "idle_motion_m",
        "middle_share": "middle_fraction",
        "most_objects": "max_objects",
        "push_m": "push_height_m",
        "grasp_m": "grasp_height_m",
    }

    sweep_every: int = Field(default=25, ge=1)  # episodes; Visual Foresight's cleanup_rate
    idle_episodes_before_reset: int = Field(
        default=5, ge=1
    )  # ours: episodes in a row in which nothing moved, before a sweep
    idle_motion_m: float = Field(default=0.02, ge=0)  # ours: an object that was seen to move less did not
    middle_fraction: float = Field(default=0.6, gt=0, le=1)  # ours: of the workspace's sides; outside is the edge
    max_objects: int = Field(default=5, ge=0)  # ours: carried to the middle in one sweep
    push_height_m: float = Field(default=0.02, ge=0)  # ours: height of the closed fingers above the workspace's floor
    grasp_height_m: float = Field(default=0.01, ge=0)  # ours: the same, where an object is grasped


class TableReset:
    """Moves what was moved away. It knows the camera's picture and the hand's state, and counts dull episodes."""

    def __init__(self, robot: Robot, config: TableResetConfig, blobs: ObjectDetectionConfig) -> None:
        self._robot, self._config, self._blobs = robot, config, blobs
        self._low = np.array(robot.spec.limits.workspace_low_m)
        self._high = np.array(robot.spec.limits.workspace_high_m)
        self.idle_episodes = 0  # episodes in a row in which nothing but the arm was seen to move

    def is_due(self, number: int) -> bool:
        """Tell whether the table is to be swept before the episode of this number."""
        if self._robot.spec.renews_scene:
            return False
        dull = self.idle_episodes > 0 and self.idle_episodes % self._config.idle_episodes_before_reset == 0
        return dull or (number > 0 and number % self._config.sweep_every == 0)

    def judge(self, scenery: SceneActivity) -> None:
        """Take what an episode showed: without a thing that moves, or is held, it was dull."""
        is_dull = scenery.objects_moved_m < self._config.idle_motion_m and not scenery.lifted
        self.idle_episodes = self.idle_episodes + 1 if is_dull and not self._robot.spec.renews_scene else 0

    def drop(self, seen: Observation, rng: np.random.Generator) -> None:
        """Let go of what is held, near the floor of a random place of the middle.

        Raises:
            RobotFault: The arm stopped itself.
            CameraFault: No usable picture.
        """
        if self._robot.spec.renews_scene or not is_holding(seen):
            return
        place = self._middle(rng)
        low = self._low[2] + self._config.push_height_m
        route = [
            Waypoint(self._up(seen.state[:2]), CLOSE),
            Waypoint(self._up(place), CLOSE),
            Waypoint(np.array([*place, low]), CLOSE, OPEN),
            Waypoint(self._up(place), OPEN),
        ]
        self._follow(route, seen)

    def sweep(self, seen: Observation, rng: np.random.Generator) -> None:
        """Carry what lies at the edge to the middle, then draw the closed fingers from each corner to the middle.

        Args:
            seen: The gripper is open, the arm out of the way.
            rng: Draws the places.

        Raises:
            RobotFault: The arm stopped itself.
            CameraFault: No usable picture.
        """
        edge = objects_at_edge(seen, self._robot.spec, self._blobs, self._config.middle_fraction)
        for thing in edge[: self._config.max_objects]:
            seen = self._follow(self._carry(thing[:2], rng), seen)
        for corner in rng.permutation(_CORNERS):
            seen = self._follow(self._stroke(self._low[:2] + corner * (self._high - self._low)[:2], rng), seen)

    def _carry(self, place: NDArray[np.float64], rng: np.random.Generator) -> list[Waypoint]:
        """Grasp what is at a place (2,), and let go of it in the middle."""
        to, low = self._middle(rng), self._low[2] + self._config.grasp_height_m
        return [
            Waypoint(self._up(place), OPEN),
            Waypoint(np.array([*place, low]), OPEN, CLOSE),
            Waypoint(self._up(place), CLOSE),
            Waypoint(self._up(to), CLOSE),
            Waypoint(np.array([*to, low + 0.01]), CLOSE, OPEN),
            Waypoint(self._up(to), OPEN),
        ]

    def _stroke(self, start: NDArray[np.float64], rng: np.random.Generator) -> list[Waypoint]:
        """Push whatever is on the way from a place (2,) to the middle."""
        low, to = self._low[2] + self._config.push_height_m, self._middle(rng)
        return [
            Waypoint(self._up(start), CLOSE),
            Waypoint(np.array([*start, low]), CLOSE),
            Waypoint(np.array([*to, low]), CLOSE),
            Waypoint(self._up(to), CLOSE),
        ]

    def _follow(self, route: Sequence[Waypoint], seen: Observation) -> Observation:
        """Go along a route, each part of it from where the hand really is; return what is seen at its end."""
        limits = self._robot.spec.limits
        for waypoint in route:
            way = np.clip(waypoint.place_m, self._low, self._high) - seen.state[:3]
            n = max(1, int(np.ceil(np.linalg.norm(way) / limits.step_limit_m)))
            for action in walk([waypoint], seen.state[:3], n, limits.step_limit_m, limits):
                seen = self._robot.step(action.astype(np.float32)).observation
        return seen

    def _middle(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return a random place (2,) of the middle half of the workspace."""
        place: NDArray[np.float64] = self._low[:2] + rng.uniform(0.25, 0.75, 2) * (self._high - self._low)[:2]
        return place

    def _up(self, place: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the point (3,) above a place (2,), three quarters up the workspace."""
        return np.array([*place, self._low[2] + 0.75 * (self._high - self._low)[2]])
