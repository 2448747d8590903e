"""Checks whether a goal image can be meant: reasons to warn, none of which makes a goal unusable."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

_ALPHA_OPAQUE = 255
_GREY, _COLOURED = 4.0, 12.0  # of 255, see `_colour`: at most, in a greyscale image, and at least, in one with colour


def file_warnings(path: Path) -> list[str]:
    """Return reasons why a file that `load_goal` accepts may not be meant, known before a camera sees the scene."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is not None and image.ndim == 3 and image.shape[2] == 4 and image[..., 3].min() < _ALPHA_OPAQUE:
        return [f"{path} is partly transparent, which a camera image is not; its transparency is ignored"]
    return []


def scene_warnings(goal: NDArray[np.uint8], present: NDArray[np.uint8]) -> list[str]:
    """Return reasons why a goal may not be meant, from a comparison with the present.

    Args:
        goal: (64, 64, 3) uint8 RGB.
        present: (64, 64, 3) uint8 RGB, from the robot's camera.
    """
    warnings = []
    if _colour(goal) < _GREY <= _COLOURED <= _colour(present):
        warnings.append("the goal image is greyscale, and the camera's images are in colour; take it with run_goal")
    return warnings


def _colour(image: NDArray[np.uint8]) -> float:
    """Return the difference of the channels (0 to 255) of the most colourful hundredth of an image."""
    return float(np.percentile(np.ptp(image, axis=2), 99))
