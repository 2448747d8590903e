"""Table reset: objects stay within reach by placing them at random positions and by sweeps to the middle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from configs.loader import Config
from data_collection.policies.object_detection import ObjectDetectionConfig, SceneActivity, is_holding, objects_at_edge
from data_collection.policies.primitives import pick_up, set_down, stroke
from data_collection.policies.waypoints import Waypoint, walk
from robot_bridge.robot import CLOSE, Observation, Robot

_CORNERS = ((0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 0.0))  # of the workspace, as fractions of its sides


class TableResetConfig(Config):
    """When and how the table is reset. A simulated scene that is redrawn for each episode needs no reset."""

    renamed_keys: ClassVar[Mapping[str, str]] = {
        "dull_after": "idle_episodes_before_reset",
        "dull_m": "idle_motion_m",
        "middle_share": "middle_fraction",
        "most_objects": "max_objects",
        "push_m": "push_height_m",
        "grasp_m": "grasp_height_m",
    }

    sweep_every: int = Field(default=25, ge=1)  # episodes; Visual Foresight's cleanup_rate
    idle_episodes_before_reset: int = Field(default=5, ge=1)  # ours: consecutive episodes without object motion
    idle_motion_m: float = Field(default=0.02, ge=0)  # ours: smaller object motion counts as none
    middle_fraction: float = Field(default=0.6, gt=0, le=1)  # ours: of the workspace's sides; the rest is the edge
    max_objects: int = Field(default=5, ge=0)  # ours: carried to the middle in one reset
    push_height_m: float = Field(default=0.02, ge=0)  # ours: of the closed fingers above the workspace's floor
    grasp_height_m: float = Field(default=0.01, ge=0)  # ours: the same, in a grasp


class TableReset:
    """Moves objects back to the middle, from camera images and the hand's state; counts idle episodes."""

    def __init__(self, robot: Robot, config: TableResetConfig, blobs: ObjectDetectionConfig) -> None:
        self._robot, self._config, self._blobs = robot, config, blobs
        self._low = np.array(robot.spec.limits.workspace_low_m)
        self._high = np.array(robot.spec.limits.workspace_high_m)
        self._up_m = self._low[2] + 0.75 * (self._high - self._low)[2]  # height of travel
        self.idle_episodes = 0  # consecutive episodes without object motion

    def is_due(self, number: int) -> bool:
        """Return whether the table must be reset before the episode of this number."""
        if self._robot.spec.renews_scene:
            return False
        is_idle = self.idle_episodes > 0 and self.idle_episodes % self._config.idle_episodes_before_reset == 0
        return is_idle or (number > 0 and number % self._config.sweep_every == 0)

    def update(self, activity: SceneActivity) -> None:
        """Count an episode as idle if no object moved or was lifted; otherwise restart the count."""
        is_idle = activity.objects_moved_m < self._config.idle_motion_m and not activity.lifted
        self.idle_episodes = self.idle_episodes + 1 if is_idle and not self._robot.spec.renews_scene else 0

    def drop(self, seen: Observation, rng: np.random.Generator) -> None:
        """Set down a held object at a random position in the middle.

        Raises:
            RobotFault: The arm stopped itself.
            CameraFault: No usable image.
        """
        if self._robot.spec.renews_scene or not is_holding(seen):
            return
        place = self._middle(rng)
        lift = Waypoint(np.array([*seen.state[:2], self._up_m]), CLOSE)
        release_m = self._low[2] + self._config.push_height_m
        self._follow([lift, *set_down(place, self._up_m, release_m, self._up_m)], seen)

    def sweep(self, seen: Observation, rng: np.random.Generator) -> None:
        """Carry objects from the edge to the middle, then sweep the closed fingers from each corner to the middle.

        Args:
            seen: Observation with an open gripper, the arm out of view.
            rng: Source of randomness.

        Raises:
            RobotFault: The arm stopped itself.
            CameraFault: No usable image.
        """
        edge = objects_at_edge(seen, self._robot.spec, self._blobs, self._config.middle_fraction)
        for place in edge[: self._config.max_objects]:
            seen = self._follow(self._carry(place[:2], rng), seen)
        for corner in rng.permutation(_CORNERS):
            seen = self._follow(self._stroke(self._low[:2] + corner * (self._high - self._low)[:2], rng), seen)

    def _carry(self, place: NDArray[np.float64], rng: np.random.Generator) -> list[Waypoint]:
        """Pick up an object at a place (2,) and set it down in the middle."""
        to, low = self._middle(rng), self._low[2] + self._config.grasp_height_m
        lift = pick_up(place, self._up_m, low, self._up_m)
        return [*lift, *set_down(to, self._up_m, low + 0.01, self._up_m)]

    def _stroke(self, start: NDArray[np.float64], rng: np.random.Generator) -> list[Waypoint]:
        """Push all objects between a place (2,) and the middle."""
        low = self._low[2] + self._config.push_height_m
        return list(stroke(start, self._middle(rng), low, approach_m=self._up_m, leave_m=self._up_m))

    def _follow(self, route: Sequence[Waypoint], seen: Observation) -> Observation:
        """Follow waypoints, each from the measured hand position; return the last observation."""
        limits = self._robot.spec.limits
        for waypoint in route:
            way = np.clip(waypoint.place_m, self._low, self._high) - seen.state[:3]
            n = max(1, int(np.ceil(np.linalg.norm(way) / limits.step_limit_m)))
            for action in walk([waypoint], seen.state[:3], n, limits.step_limit_m, limits):
                seen = self._robot.step(action.astype(np.float32)).observation
        return seen

    def _middle(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return a random position (2,) in the middle half of the workspace."""
        place: NDArray[np.float64] = self._low[:2] + rng.uniform(0.25, 0.75, 2) * (self._high - self._low)[:2]
        return place
