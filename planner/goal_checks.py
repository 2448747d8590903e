"""Checks whether a goal image can be the right one: reasons to warn, none of which makes a goal unusable.

A goal of the same scene differs from the present where objects and the arm have moved. Its colours are those of the
present, wherever they are; no colour needs to be saturated. `tests/benchmarks/goal_warnings.py` counts false alarms and
misses.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

_OPAQUE = 255  # alpha
_GREY, _COLOURED = 4.0, 12.0  # of 255, `_colour` of a greyscale image at most, and of one in colour at least; ours
_DIFFERS = 30  # of 255: a pixel differs strongly; ours
_BLOCK_PX, _BLOCK_DIFFERS = 8, 10.0  # a block of pixels differs: mean of its brightness, of 255; ours
_MAX_PIXELS, _MAX_BLOCKS = 0.55, 0.85  # fractions that differ, of another camera; real robots: at most 0.53 and 0.81
_LIGHTNESS = 0.3  # weight of lightness in the distance of two colours, since shadows move with the arm; ours
_SAME_COLOUR = 10.0  # distance in CIELAB with the weight above; ours
_N_SAME = 4  # pixels that must have a colour for it to be in an image: fewer are a blend along an edge; ours
_MAX_FOREIGN = 0.025  # fraction of an image whose colours are not in the other; measured: at most 0.024; ours


def file_warnings(path: Path) -> list[str]:
    """Return reasons why a file that `load_goal` accepts may be the wrong one, known before a camera sees the scene."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is not None and image.ndim == 3 and image.shape[2] == 4 and image[..., 3].min() < _OPAQUE:
        return [
            f"the goal image {path} is partly transparent, which a camera image never is; take it anew with run_goal"
        ]
    return []


def scene_warnings(goal: NDArray[np.uint8], present: NDArray[np.uint8]) -> list[str]:
    """Return reasons why a goal may be the wrong one, from a comparison with the present.

    Args:
        goal: (64, 64, 3) uint8 RGB.
        present: (64, 64, 3) uint8 RGB, from the robot's camera.
    """
    if _colour(goal) < _GREY and _colour(present) > _COLOURED:
        return [
            "the goal image is greyscale, but the camera's images are in colour; take the goal image anew with run_goal"
        ]
    pixels, blocks = _fraction_of_pixels(goal, present), _fraction_of_blocks(goal, present)
    if pixels > _MAX_PIXELS and blocks > _MAX_BLOCKS:
        return [
            f"{100 * pixels:.0f} % of the goal image differs strongly from the present camera image; it seems to show "
            "another place, or to come from another camera"
        ]
    new, gone = _foreign(goal, present), _foreign(present, goal)
    if max(new, gone) <= _MAX_FOREIGN:
        return []
    parts = [
        f"{100 * fraction:.0f} % of the {one} has colours that are nowhere in the {other}"
        for fraction, one, other in (
            (new, "goal image", "present camera image"),
            (gone, "present camera image", "goal image"),
        )
        if fraction > _MAX_FOREIGN
    ]
    return [f"the goal image seems to show other objects: {', and '.join(parts)}"]


def _colour(image: NDArray[np.uint8]) -> float:
    """Return the difference of the channels (0 to 255) of the most colourful hundredth of an image."""
    return float(np.percentile(np.ptp(image, axis=2), 99))


def _fraction_of_pixels(goal: NDArray[np.uint8], present: NDArray[np.uint8]) -> float:
    """Return the fraction of pixels that differ strongly in any channel."""
    return float((cv2.absdiff(goal, present).max(axis=2) > _DIFFERS).mean())


def _fraction_of_blocks(goal: NDArray[np.uint8], present: NDArray[np.uint8]) -> float:
    """Return the fraction of blocks whose brightness differs on average: everything, where the background differs."""
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64) for image in (goal, present)]
    n = len(goal) // _BLOCK_PX
    blocks = np.abs(grey[0] - grey[1]).reshape(n, _BLOCK_PX, n, _BLOCK_PX).mean(axis=(1, 3))
    return float((blocks > _BLOCK_DIFFERS).mean())


def _foreign(image: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return the fraction of an image's pixels whose colours are nowhere in another image."""
    from scipy.spatial import KDTree  # noqa: PLC0415 - takes longer to import than all else together

    distances, _ = KDTree(_colours(other)).query(_colours(image), k=_N_SAME)
    return float((distances[:, -1] > _SAME_COLOUR).mean())


def _colours(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the colours (N, 3) of an image's pixels in CIELAB, lightness with a lower weight."""
    smooth = cv2.GaussianBlur(image, (3, 3), 0).astype(np.float32) / 255
    return np.asarray(cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB).reshape(-1, 3) * np.array([_LIGHTNESS, 1.0, 1.0]))
