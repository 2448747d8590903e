"""The objects at the start of an episode: what the planner detected, what must move, and which one is the tool."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_collection.policies.object_detection import ObjectDetectionConfig, detect_objects
from planner.proposals import DifferenceConfig, find_difference
from robot_bridge.camera import Camera
from robot_bridge.robot import Observation, RobotSpec

_TOOL_PX = 12.0  # largest distance of the tool's centre from the object that shows it, in 240x320; ours


@dataclass(frozen=True)
class DetectedObject:
    """One coloured object in the first image."""

    mask: NDArray[np.bool_]  # (H, W), of the camera image
    pixel: NDArray[np.float64]  # (2,) centre, x then y
    moves: bool  # whether it is elsewhere in the goal image
    goal_pixel: NDArray[np.float64] | None  # (2,) centre in the goal; None: it stays, or is hidden there


@dataclass(frozen=True)
class StartScene:
    """The objects in the first image of an episode. The planner does not know which one is the tool."""

    objects: list[DetectedObject]  # the largest first
    tool_pixel: NDArray[np.float64] | None  # (2,) centre of the tool; known in the simulation alone
    camera: Camera | None = None  # whose image shows them; None: unknown

    @property
    def tool(self) -> DetectedObject | None:
        """The detected object that is the tool; None where the tool is not known or not detected."""
        if self.tool_pixel is None or not self.objects:
            return None
        apart = [_distance(found.mask, self.tool_pixel) for found in self.objects]
        nearest = int(np.argmin(apart))
        height = self.objects[nearest].mask.shape[0]
        return self.objects[nearest] if apart[nearest] <= _TOOL_PX * height / 240 else None


def start_scene(
    observation: Observation,
    goal: NDArray[np.uint8],
    spec: RobotSpec,
    configs: tuple[ObjectDetectionConfig, DifferenceConfig],
    tool_m: NDArray[np.float64] | None,
) -> StartScene:
    """Return the objects in the first image.

    Args:
        observation: The start.
        goal: (64, 64, 3) uint8 RGB.
        spec: Of the robot.
        configs: Of the detection, and of the comparison with the goal.
        tool_m: (3,) position of the tool in the base frame; None: unknown.
    """
    found = detect_objects(observation.image, spec.camera, configs[0])
    others = find_difference(observation, goal, spec, *configs).others
    goals = {tuple(other.pixel.tolist()): other.goal_pixel for other in others}
    objects = [
        DetectedObject(mask, pixel, tuple(pixel.tolist()) in goals, goals.get(tuple(pixel.tolist())))
        for mask, pixel in zip(found.masks, found.pixels, strict=True)
    ]
    return StartScene(objects, None if tool_m is None else spec.camera.project(tool_m[None])[0], spec.camera)


def _distance(mask: NDArray[np.bool_], pixel: NDArray[np.float64]) -> float:
    """Return the distance of a pixel, x then y, to the nearest one of a mask."""
    return float(np.linalg.norm(np.argwhere(mask) - pixel[::-1], axis=1).min())
