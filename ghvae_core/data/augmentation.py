"""Clips as another camera might have seen them: cropped and recoloured, the same over all frames of a clip."""

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

    min_side_fraction: float = Field(default=0.8, gt=0, le=1)  # of the image that a crop keeps at least; FitVid
    brightness: float = Field(default=0.1, ge=0, lt=1)  # share by which all colours rise or fall; RoboNet
    contrast: float = Field(default=0.1, ge=0, lt=1)  # share of the distance from the clip's mean grey; RoboNet
    saturation: float = Field(default=0.1, ge=0, lt=1)  # share of the distance from grey; RoboNet
    hue: float = Field(default=0.1, ge=0, le=0.5)  # of a turn around the circle of hues; RoboNet


def augment(frames: NDArray[np.uint8], config: AugmentationConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return clips, each with a crop and a change of colour of its own; equal for equal `rng`.

    Args:
        frames: (T, B, px, px, 3) uint8 RGB.
        config: How far.
        rng: Draws one crop and one change of colour a clip.

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
    """Apply hue, saturation, contrast and brightness, in this order, which together are one affine map of colours."""
    turn = 2 * np.pi * rng.uniform(-config.hue, config.hue)
    saturation, contrast, brightness = (
        1 + rng.uniform(-share, share) for share in (config.saturation, config.contrast, config.brightness)
    )
    cos, sin = np.cos(turn), np.sin(turn)
    hue = np.linalg.inv(_YIQ) @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ _YIQ
    matrix = (saturation * np.eye(3) + (1 - saturation) * _GREY) @ hue
    mean_grey = float(clip.mean(axis=(0, 1, 2)) @ _YIQ[0])
    offset = brightness * (1 - contrast) * mean_grey
    colours = clip.astype(np.float32) @ (brightness * contrast * matrix.T).astype(np.float32) + np.float32(offset)
    return np.asarray(np.clip(np.rint(colours), 0, 255), np.uint8)
