"""Object detection: coloured regions of the image, located on the table by the calibrated camera."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from configs.loader import Config
from robot_bridge.camera import Camera
from robot_bridge.robot import Observation, RobotSpec
from robot_bridge.safety import MotionLimits

_WALL_M = 0.03  # half an object; ours
_HUES = 180  # OpenCV's circle
_CLEAR = 0.75  # of a peak's height: depth of the valleys next to it; ours


class ObjectDetectionConfig(Config):
    """Thresholds of an object: saturated colour, since arm, gripper and bin are white to black."""

    min_saturation: int = Field(default=90, ge=0, le=255)  # HSV on OpenCV's scale; ours
    min_value: int = Field(default=50, ge=0, le=255)  # darker pixels have no reliable hue; ours
    min_area_px: int = Field(default=25, ge=1)  # about 1.5 cm across where images are 240x320; ours
    height_m: float = Field(default=0.02, ge=0)  # assumed height of an object's centre above the table; ours


class DetectedObjects(NamedTuple):
    """Objects in one image, the largest first; M may be 0."""

    places_m: NDArray[np.float64]  # (M, 3) base frame; z is the assumed height of the centre
    pixels: NDArray[np.float64]  # (M, 2) centres in the image, x then y
    hues: NDArray[np.float64]  # (M,) on OpenCV's circle, 0 to 180
    masks: NDArray[np.bool_]  # (M, H, W)


def detect_objects(image: NDArray[np.uint8], camera: Camera, config: ObjectDetectionConfig) -> DetectedObjects:
    """Return the positions of coloured objects in the robot base frame.

    Adjacent objects of different hue are separated; an object covered by the arm is not found.

    Args:
        image: (H, W, 3) uint8 RGB at camera size.
        camera: The calibrated camera that took it.
        config: Criteria of objects.
    """
    hue, coloured = colours(image, config)
    area_px = round(config.min_area_px * camera.scale**2)
    found: list[tuple[NDArray[np.float64], NDArray[np.bool_]]] = []
    for band in _hue_bands(hue[coloured], area_px):
        found += components(coloured & np.isin(hue, band), area_px)
    found.sort(key=lambda blob: -np.count_nonzero(blob[1]))
    pixels = np.array([center for center, _ in found]).reshape(-1, 2)
    return DetectedObjects(
        camera.unproject(pixels, config.height_m),
        pixels,
        np.array([_mean_hue(hue[mask]) for _, mask in found]),
        np.array([mask for _, mask in found], bool).reshape(-1, *hue.shape),
    )


def within_reach(places_m: NDArray[np.float64], limits: MotionLimits) -> NDArray[np.bool_]:
    """Return which positions (M, 3) the hand can reach, including objects at the wall."""
    low, high = np.array(limits.workspace_low_m[:2]), np.array(limits.workspace_high_m[:2])
    inside: NDArray[np.bool_] = (places_m[:, :2] > low - _WALL_M) & (places_m[:, :2] < high + _WALL_M)
    return np.asarray(inside.all(axis=1))


def colours(image: NDArray[np.uint8], config: ObjectDetectionConfig) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the hue (H, W) of each pixel, 0 to 179, and which pixels are coloured (H, W).

    Args:
        image: (H, W, 3) uint8 RGB.
        config: Thresholds of saturation and value.
    """
    hsv = np.asarray(cv2.cvtColor(cv2.GaussianBlur(image, (3, 3), 0), cv2.COLOR_RGB2HSV), dtype=np.uint8)
    return hsv[..., 0], (hsv[..., 1] >= config.min_saturation) & (hsv[..., 2] >= config.min_value)


def components(mask: NDArray[np.bool_], min_area_px: int) -> list[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """Return the connected components of a mask (H, W) above the minimum area: centre (2,), x then y, and mask."""
    _, labels, stats, centers = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    large = [i for i in range(1, len(stats)) if stats[i, cv2.CC_STAT_AREA] >= min_area_px]  # 0 is the background
    return [(np.asarray(centers[i], np.float64), np.asarray(labels == i)) for i in large]


def _mean_hue(hues: NDArray[np.uint8]) -> float:
    turns = np.exp(2j * np.pi * hues / _HUES).mean()
    return float(np.angle(turns) / (2 * np.pi) * _HUES % _HUES)


def _hue_bands(hues: NDArray[np.uint8], min_area_px: int) -> list[NDArray[np.int64]]:
    """Split the circle of hues (0 to 179) so that each band is one colour: at the valleys between clear peaks.

    A peak is clear when it has `min_area_px` pixels and the valleys next to it have less than a quarter of its height;
    the few blended pixels along the edge of two colours fill those valleys but make no peak.
    """
    counts = np.bincount(hues, minlength=_HUES)
    smooth = counts + np.roll(counts, 1) + np.roll(counts, -1)
    around = np.tile(smooth, 3)
    clear = [i for i in _peaks(around) if _HUES <= i < 2 * _HUES and around[i] >= min_area_px and _is_clear(around, i)]
    if len(clear) < 2:
        return [np.arange(_HUES)]
    ends = [*clear, clear[0] + _HUES]
    valleys = [int(a + np.argmin(around[a:b])) for a, b in pairwise(ends)]
    return [np.arange(a, b) % _HUES for a, b in pairwise([valleys[-1] - _HUES, *valleys])]


def _peaks(counts: NDArray[np.int64]) -> list[int]:
    """Return the local maxima of counts (N,), the middle of each that is flat; the ends are none.

    Like `scipy.signal.find_peaks`, whose import takes longer than the collection of ten episodes.
    """
    starts = np.concatenate([[0], np.flatnonzero(np.diff(counts)) + 1])  # of runs of equal counts
    slopes = np.sign(np.diff(counts[starts]))
    tops = np.flatnonzero((slopes[:-1] > 0) & (slopes[1:] < 0)) + 1
    return [int(starts[top] + starts[top + 1] - 1) // 2 for top in tops]


def _is_clear(counts: NDArray[np.int64], peak: int) -> bool:
    """Return whether the valleys on both sides, up to a higher peak, are as deep as a clear peak's."""
    higher = np.flatnonzero(counts > counts[peak])
    left, right = higher[higher < peak], higher[higher > peak]
    low = counts[left[-1] if left.size else 0 : peak + 1].min()
    high = counts[peak : right[0] if right.size else None].min()
    return bool(counts[peak] - max(low, high) >= _CLEAR * counts[peak])


MOVED_M = 0.03  # object motion that counts as moved; ours

_SAME_HUE = 8.0  # of OpenCV's 180: largest difference of the same object; ours
_LIFTED_M = 0.06  # above the floor of the workspace, a held object is lifted; ours
_SAME_SIZE = 0.6  # least visible fraction of an object's area; with less its centre is biased; ours

OPENING_OPEN = 0.93  # above, the gripper is open; between this and _OPENING_EMPTY it holds an object
_OPENING_EMPTY = 0.04


def is_holding(observation: Observation) -> bool:
    """Return whether the gripper holds an object."""
    return _OPENING_EMPTY < float(observation.state[4]) < OPENING_OPEN


class SceneActivity(NamedTuple):
    """Object motion in one episode."""

    objects_seen: int  # objects within reach in the first frame
    objects_moved_m: float  # largest motion of one of them on the table; 0 if none was detected again
    lifted: bool  # an object was held above the table


def measure_activity(seen: Sequence[Observation], spec: RobotSpec, config: ObjectDetectionConfig) -> SceneActivity:
    """Return the object motion in the observations of an episode, in order."""
    before, after = (detect_objects(observation.image, spec.camera, config) for observation in (seen[0], seen[-1]))
    reachable = within_reach(before.places_m, spec.limits)
    floor_m = spec.limits.workspace_low_m[2]
    lifted = any(is_holding(observation) and observation.state[2] > floor_m + _LIFTED_M for observation in seen)
    return SceneActivity(int(reachable.sum()), _furthest_m(before, after, reachable), lifted)


def objects_at_edge(
    seen: Observation, spec: RobotSpec, config: ObjectDetectionConfig, middle_fraction: float
) -> NDArray[np.float64]:
    """Return the positions (M, 3) of objects outside the middle of the workspace.

    Args:
        seen: Observation with the arm out of view.
        spec: Of the robot.
        config: Thresholds of an object.
        middle_fraction: Of each side of the workspace.
    """
    objects = detect_objects(seen.image, spec.camera, config)
    low, high = np.array(spec.limits.workspace_low_m[:2]), np.array(spec.limits.workspace_high_m[:2])
    away = np.abs(objects.places_m[:, :2] - (low + high) / 2) > middle_fraction * (high - low) / 2
    return np.asarray(objects.places_m[within_reach(objects.places_m, spec.limits) & away.any(axis=1)])


def _furthest_m(before: DetectedObjects, after: DetectedObjects, reachable: NDArray[np.bool_]) -> float:
    """Return the largest distance of an object from the nearest one of the same hue."""
    furthest = 0.0
    areas = [np.count_nonzero(objects.masks, axis=(1, 2)) for objects in (before, after)]
    for i in np.flatnonzero(reachable):
        apart = np.abs(after.hues - before.hues[i])
        alike = (np.minimum(apart, 180 - apart) < _SAME_HUE) & (areas[1] > _SAME_SIZE * areas[0][i])
        if alike.any():
            ways = np.linalg.norm(after.places_m[alike, :2] - before.places_m[i, :2], axis=1)
            furthest = max(furthest, float(ways.min()))
    return round(furthest, 4)
