"""What differs between the present and the goal: coloured things that must move, and where to."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from configs.loader import Config
from data_collection.blobs import BlobConfig, colours, components, find_blobs
from data_collection.policy import holds
from robot_bridge.camera import Camera, camera_image
from robot_bridge.robot import Observation


class DifferenceConfig(Config):
    """When a thing of the present is found again in the goal."""

    hue_tolerance: float = Field(default=7.0, gt=0, le=90)  # on OpenCV's circle of 180; ours
    least_overlap: float = Field(default=0.5, ge=0, le=1)  # of its pixels: a thing that covers them has not moved; ours
    least_area_px: int = Field(default=12, ge=1)  # at camera size, of what is still seen of it in the goal; ours
    held_px: float = Field(default=40.0, gt=0)  # at most this far below the fingertips in the image is held; ours


class Thing(NamedTuple):
    """A coloured thing that stands elsewhere in the goal, or is not seen there."""

    pixel: NDArray[np.float64]  # (2,) of the camera image, x then y: its centre now
    goal_pixel: NDArray[np.float64] | None  # (2,) its centre in the goal; None: hidden there
    area_px: int  # now


class Difference(NamedTuple):
    """All things that must move."""

    held: Thing | None  # the one between the fingers, wherever it must go
    others: list[Thing]  # the largest first


def find_difference(
    observation: Observation,
    goal: NDArray[np.uint8],
    camera: Camera,
    blobs: BlobConfig,
    config: DifferenceConfig,
) -> Difference:
    """Return the things that stand elsewhere in the goal than now. Things are known again by their hue alone.

    Args:
        observation: The present.
        goal: (64, 64, 3) uint8 RGB, a model image of the same camera.
        camera: Its calibration.
        blobs: What counts as a thing.
        config: What counts as the same thing in the same place.
    """
    now = find_blobs(observation.image, camera, blobs)
    hue, coloured = colours(camera_image(goal, camera), blobs)
    things: list[Thing] = []
    for pixel, own_hue, mask in zip(now.pixels, now.hues, now.masks, strict=True):
        alike = coloured & (_apart(hue, own_hue) <= config.hue_tolerance)
        if alike[mask].mean() < config.least_overlap:
            parts = components(alike, config.least_area_px)
            center = max(parts, key=lambda part: np.count_nonzero(part[1]))[0] if parts else None
            things.append(Thing(pixel, center, int(np.count_nonzero(mask))))
    held = _held(observation, things, camera, config) if holds(observation) else None
    return Difference(held, [thing for thing in things if thing is not held])


def _apart(hue: NDArray[np.uint8], own: float) -> NDArray[np.float64]:
    """Return how far hues are from one, on the circle of 180."""
    distance = np.abs(hue.astype(np.float64) - own)
    return np.asarray(np.minimum(distance, 180 - distance))


def _held(observation: Observation, things: list[Thing], camera: Camera, config: DifferenceConfig) -> Thing | None:
    """Return the thing nearest to the fingertips in the image, if one is near."""
    fingertips = camera.project(observation.state[None, :3])[0]
    near = min(things, key=lambda thing: float(np.linalg.norm(thing.pixel - fingertips)), default=None)
    return near if near is not None and np.linalg.norm(near.pixel - fingertips) <= config.held_px else None
