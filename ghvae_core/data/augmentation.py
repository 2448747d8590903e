"""Random crops and colour changes, the same for all frames of a clip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from configs.loader import Config
from robot_bridge.camera import Crop, crop_and_resize

_YIQ: Final = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])  # of RGB; NTSC
_GREY: Final = np.tile(_YIQ[0], (3, 1))


class AugmentationConfig(Config):
    """Ranges of the random changes."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"min_side_share": "min_side_fraction"}

    min_side_fraction: float = Field(default=0.8, gt=0, le=1)  # smallest side of a crop, of the image; FitVid
    brightness: float = Field(default=0.1, ge=0, lt=1)  # largest relative change; RoboNet
    contrast: float = Field(
        default=0.1, ge=0, lt=1
    )  # largest relative change of the distance from the mean grey of the clip; RoboNet
    saturation: float = Field(default=0.1, ge=0, lt=1)  # largest relative change of the distance from grey; RoboNet
    hue: float = Field(default=0.1, ge=0, le=0.5)  # largest rotation, in turns; RoboNet


def augment(frames: NDArray[np.uint8], config: AugmentationConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return clips, each with its own random crop and colour change; equal for equal `rng`.

    Args:
        frames: (T, B, px, px, 3) uint8 RGB.
        config: Ranges.
        rng: Draws one crop and one colour change per clip.

    Returns:
        (T, B, px, px, 3) uint8.
    """
    return np.stack([_recolour(_zoom(clip, config, rng), config, rng) for clip in frames.swapaxes(0, 1)], axis=1)


def _zoom(clip: NDArray[np.uint8], config: AugmentationConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    px = clip.shape[1]
    side = int(rng.integers(min(px, int(np.ceil(config.min_side_fraction * px))), px + 1))
    top, left = rng.integers(px - side + 1, size=2).tolist()
    if side == px:
        return clip
    crop = Crop(top_px=top, left_px=left, height_px=side, width_px=side)
    return np.stack([crop_and_resize(frame, crop, px) for frame in clip])


def _recolour(clip: NDArray[np.uint8], config: AugmentationConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Apply hue, saturation, contrast and brightness, in this order, as one affine map of colours."""
    turn = 2 * np.pi * rng.uniform(-config.hue, config.hue)
    saturation, contrast, brightness = (
        1 + rng.uniform(-size, size) for size in (config.saturation, config.contrast, config.brightness)
    )
    cos, sin = np.cos(turn), np.sin(turn)
    hue = np.linalg.inv(_YIQ) @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ _YIQ
    matrix = (saturation * np.eye(3) + (1 - saturation) * _GREY) @ hue
    mean_grey = float(clip.mean(axis=(0, 1, 2)) @ _YIQ[0])
    offset = brightness * (1 - contrast) * mean_grey
    colours = clip.astype(np.float32) @ (brightness * contrast * matrix.T).astype(np.float32) + np.float32(offset)
    return np.asarray(np.clip(np.rint(colours), 0, 255), np.uint8)
