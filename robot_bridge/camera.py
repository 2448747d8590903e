"""Camera model: cropping and resizing to model images, projection of points to pixels and back.

Every model image of the project is made by this module.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from configs.loader import Config

MODEL_IMAGE_PX = 64  # side of the model image; paper E.1

_CONFIGURED_PX = 240  # image height for which lengths in pixels are configured: that of the simulated camera

_Vector = tuple[float, float, float]


class Crop(Config):
    """The rectangle of a camera image from which the model image is made."""

    top_px: int = Field(ge=0)
    left_px: int = Field(ge=0)
    height_px: int = Field(gt=0)
    width_px: int = Field(gt=0)

    def rows(self) -> slice:
        """Return the rows inside the crop."""
        return slice(self.top_px, self.top_px + self.height_px)

    def columns(self) -> slice:
        """Return the columns inside the crop."""
        return slice(self.left_px, self.left_px + self.width_px)


class Camera(Config):
    """A calibrated pinhole camera in the robot base frame."""

    height_px: int = Field(ge=240, multiple_of=16)  # RoboNet's mp4 rule
    width_px: int = Field(ge=320, multiple_of=16)
    crop: Crop | None = None  # None: the whole image, resized to a square as RoboNet does
    position_m: _Vector  # optical centre
    target_m: _Vector  # a point on the optical axis; the image's x axis stays horizontal
    fovy_rad: float = Field(gt=0, lt=3)  # vertical field of view

    @model_validator(mode="after")
    def _check_crop(self) -> Camera:
        crop = self.crop
        if crop and (crop.top_px + crop.height_px > self.height_px or crop.left_px + crop.width_px > self.width_px):
            raise ValueError(
                f"expected a crop inside the {self.height_px}x{self.width_px} image, got one that exceeds it"
            )
        return self

    @model_validator(mode="after")
    def _check_axis(self) -> Camera:
        forward = np.array(self.target_m) - np.array(self.position_m)
        if np.linalg.norm(forward[:2]) < 1e-3 * np.linalg.norm(forward) or not forward.any():
            raise ValueError(
                "expected an optical axis that is not vertical, got target_m straight below or above position_m; "
                "move target_m"
            )
        return self

    def axes(self) -> NDArray[np.float64]:
        """Return (3, 3): the rows are the image's right, down and forward directions in the base frame."""
        forward = np.array(self.target_m) - np.array(self.position_m)
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(forward, right), forward])

    @property
    def scale(self) -> float:
        """Image height relative to the 240 rows for which lengths in pixels are configured."""
        return self.height_px / _CONFIGURED_PX

    def crop_mask(self) -> NDArray[np.bool_]:
        """Return the mask (H, W) of the pixels inside the crop."""
        inside = np.ones((self.height_px, self.width_px), bool)
        if self.crop is not None:
            inside[:] = False
            inside[self.crop.rows(), self.crop.columns()] = True
        return inside

    def project(self, points_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """Project points (N, 3) of the base frame; return pixels (N, 2), x then y."""
        in_camera = (points_m - np.array(self.position_m)) @ self.axes().T
        pixels: NDArray[np.float64] = in_camera[:, :2] / in_camera[:, 2:] * self._focal_px() + self._center_px()
        return pixels

    def unproject(self, pixels: NDArray[np.float64], height_m: float) -> NDArray[np.float64]:
        """Return the points (N, 3) of the base frame at height z = `height_m` that project to pixels (N, 2)."""
        rays = np.column_stack([(pixels - self._center_px()) / self._focal_px(), np.ones(len(pixels))]) @ self.axes()
        position = np.array(self.position_m)
        points: NDArray[np.float64] = position + rays * ((height_m - position[2]) / rays[:, 2:])
        return points

    def _focal_px(self) -> float:
        return float(self.height_px / 2 / np.tan(self.fovy_rad / 2))

    def _center_px(self) -> NDArray[np.float64]:
        return np.array([(self.width_px - 1) / 2, (self.height_px - 1) / 2])


def model_image(
    image: NDArray[np.uint8], crop: Crop | None = None, image_px: int = MODEL_IMAGE_PX
) -> NDArray[np.uint8]:
    """Return the model image of a camera image: the crop, resized by area as RoboNet's loader does.

    Args:
        image: (H, W, 3) uint8 RGB at camera size, or already a model image.
        crop: Part of the image to keep; None keeps all of it.
        image_px: Side of the model image.

    Returns:
        (image_px, image_px, 3) uint8 RGB. An image that already has this size is returned unchanged.
    """
    if image.shape[:2] == (image_px, image_px):
        return image
    height, width = image.shape[:2]
    return crop_and_resize(image, crop or Crop(top_px=0, left_px=0, height_px=height, width_px=width), image_px)


def camera_image(image: NDArray[np.uint8], camera: Camera) -> NDArray[np.uint8]:
    """Return a model image enlarged to the crop of a camera image, black outside the crop.

    Args:
        image: (px, px, 3) uint8 RGB, as `model_image` returns it.
        camera: The camera whose image the model image was made from.

    Returns:
        (H, W, 3) uint8 RGB at camera size, at the resolution of the model image.
    """
    crop = camera.crop or Crop(top_px=0, left_px=0, height_px=camera.height_px, width_px=camera.width_px)
    whole = np.zeros((camera.height_px, camera.width_px, 3), np.uint8)
    size = (crop.width_px, crop.height_px)
    whole[crop.rows(), crop.columns()] = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    return whole


def crop_and_resize(image: NDArray[np.uint8], crop: Crop, side_px: int) -> NDArray[np.uint8]:
    """Resize a part of an image to a square: by area, or bilinearly if that enlarges it.

    Args:
        image: (H, W, C) uint8; several images may be stacked along C.
        crop: Part of the image.
        side_px: Side of the result.

    Returns:
        (side_px, side_px, C) uint8.
    """
    part = image[crop.rows(), crop.columns()]
    interpolation = cv2.INTER_LINEAR if max(crop.height_px, crop.width_px) < side_px else cv2.INTER_AREA
    return np.asarray(cv2.resize(part, (side_px, side_px), interpolation=interpolation), dtype=np.uint8)
