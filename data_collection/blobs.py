"""Objects as the camera sees them: coloured blobs, placed on the table by the calibrated camera."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from configs.loader import Config
from robot_bridge.camera import Camera


class BlobConfig(Config):
    """What counts as an object in the image: saturated colour, since arm, gripper and bin are white to black."""

    min_saturation: int = Field(default=90, ge=0, le=255)  # HSV on OpenCV's scale; ours
    min_value: int = Field(default=50, ge=0, le=255)  # darker pixels have no reliable hue; ours
    min_area_px: int = Field(default=25, ge=1)  # about 1.5 cm across at 240x320; ours
    height_m: float = Field(default=0.02, ge=0)  # height above the table at which a blob's centre is assumed; ours


def find_blobs(image: NDArray[np.uint8], camera: Camera, config: BlobConfig) -> NDArray[np.float64]:
    """Return where coloured things stand in the robot base frame, the largest first.

    Neighbouring things of different hue are told apart; a thing that the arm covers is not found.

    Args:
        image: (H, W, 3) uint8 RGB at camera size.
        camera: The calibrated camera that took it.
        config: What counts as an object.

    Returns:
        (M, 3) metres; z is `config.height_m`. M may be 0.
    """
    hsv = np.asarray(cv2.cvtColor(cv2.GaussianBlur(image, (3, 3), 0), cv2.COLOR_RGB2HSV), dtype=np.uint8)
    coloured = (hsv[..., 1] >= config.min_saturation) & (hsv[..., 2] >= config.min_value)
    found: list[tuple[int, NDArray[np.float64]]] = []
    for band in _hue_bands(hsv[..., 0][coloured]):
        mask = coloured & np.isin(hsv[..., 0], band)
        _, _, stats, centers = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
        for area, center in zip(stats[1:, cv2.CC_STAT_AREA], centers[1:], strict=True):  # 0 is the background
            if area >= config.min_area_px:
                found.append((int(area), center))
    if not found:
        return np.empty((0, 3))
    found.sort(key=lambda blob: -blob[0])
    return camera.locate(np.stack([center for _, center in found]), config.height_m)


def _hue_bands(hues: NDArray[np.uint8]) -> list[NDArray[np.int64]]:
    """Split the circle of hues (0 to 179) at empty stretches of four or more, so that each band is one colour."""
    used = np.bincount(hues, minlength=180) > 0
    gaps = np.array([not used[np.arange(hue, hue + 4) % 180].any() for hue in range(180)])
    if not used.any():
        return []
    if not gaps.any():
        return [np.arange(180)]
    start = int(np.argmax(gaps))
    bands: list[list[int]] = [[]]
    for hue in (np.arange(start, start + 180) % 180).tolist():
        if used[hue]:
            bands[-1].append(hue)
        elif gaps[hue] and bands[-1]:
            bands.append([])
    return [np.array(band) for band in bands if band]
