"""What differs between the present and the goal: coloured things that must move, and where to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from configs.loader import Config
from data_collection.policies.object_detection import BlobConfig, colours, components, find_blobs, within_reach
from data_collection.policies.primitives import Difference, Thing, at_fingertips
from data_collection.policies.random_policy import holds
from robot_bridge.camera import camera_image
from robot_bridge.robot import Observation, RobotSpec


class DifferenceConfig(Config):
    """How many candidates follow the difference, and when a thing of the present is found again in the goal."""

    share: float = Field(default=0.7, ge=0, le=1)  # of the candidates that follow it, where something must move; ours
    hue_tolerance: float = Field(default=7.0, gt=0, le=90)  # on OpenCV's circle of 180; ours
    least_overlap: float = Field(default=0.5, ge=0, le=1)  # of its pixels: a thing that covers them has not moved; ours
    least_area_px: int = Field(default=12, ge=1)  # of 240x320: of what is still seen of it in the goal; ours


def find_difference(
    observation: Observation,
    goal: NDArray[np.uint8],
    spec: RobotSpec,
    blobs: BlobConfig,
    config: DifferenceConfig,
) -> Difference:
    """Return the things that stand elsewhere in the goal than now. Things are known again by their hue alone.

    What stands out of reach, or mostly where the goal shows nothing because the model image is cropped, is left out.

    Args:
        observation: The present.
        goal: (64, 64, 3) uint8 RGB, a model image of the same camera.
        spec: Of the robot: the camera's calibration, and where the hand may go.
        blobs: What counts as a thing.
        config: What counts as the same thing in the same place.
    """
    camera = spec.camera
    now = find_blobs(observation.image, camera, blobs)
    hue, coloured = colours(camera_image(goal, camera), blobs)
    held_index = at_fingertips(now.pixels, observation.state[:3], camera) if holds(observation) else None
    reachable, shown = within_reach(now.places_m, spec.limits), camera.shown()
    held, others = None, []
    for i, (pixel, own_hue, mask) in enumerate(zip(now.pixels, now.hues, now.masks, strict=True)):
        alike = coloured & (_apart(hue, own_hue) <= config.hue_tolerance)
        parts = components(alike, round(config.least_area_px * camera.scale**2))
        thing = Thing(pixel, max(parts, key=lambda part: np.count_nonzero(part[1]))[0] if parts else None)
        if i == held_index:
            held = thing
        elif reachable[i] and shown[mask].mean() > 0.5 and alike[mask].mean() < config.least_overlap:
            others.append(thing)
    if held is None and holds(observation):  # it cannot be seen
        held = Thing(camera.project(observation.state[None, :3])[0], None)
    return Difference(held, others)


def _apart(hue: NDArray[np.uint8], own: float) -> NDArray[np.float64]:
    """Return how far hues are from one, on the circle of 180."""
    distance = np.abs(hue.astype(np.float64) - own)
    return np.asarray(np.minimum(distance, 180 - distance))
