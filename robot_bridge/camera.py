"""The only crop, resize and projection of the project: camera image to model image, pixel to table and back."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from configs.loader import Config

MODEL_IMAGE_PX = 64  # side of the model image; paper E.1

_Vector = tuple[float, float, float]


_CONFIGURED_PX = 240  # rows of the simulated camera


class Crop(Config):
    """The part of a camera image that the model sees."""

    top_px: int = Field(ge=0)
    left_px: int = Field(ge=0)
    height_px: int = Field(gt=0)
    width_px: int = Field(gt=0)

    def rows(self) -> slice:
        """Return the rows of the image that it keeps."""
        return slice(self.top_px, self.top_px + self.height_px)

    def columns(self) -> slice:
        """Return the columns of the image that it keeps."""
        return slice(self.left_px, self.left_px + self.width_px)


class Camera(Config):
    """A calibrated pinhole camera in the robot base frame."""

    height_px: int = Field(ge=240, multiple_of=16)  # RoboNet's mp4 rule
    width_px: int = Field(ge=320, multiple_of=16)
    crop: Crop | None = None  # None: the whole image, squeezed to a square as RoboNet does
    position_m: _Vector  # of the lens
    target_m: _Vector  # a point on the optical axis; the image's x axis stays horizontal
    fovy_rad: float = Field(gt=0, lt=3)  # vertical field of view

    @model_validator(mode="after")
    def _check_crop(self) -> Camera:
        crop = self.crop
        if crop and (crop.top_px + crop.height_px > self.height_px or crop.left_px + crop.width_px > self.width_px):
            raise ValueError(f"the crop reaches beyond the {self.height_px}x{self.width_px} image")
        return self

    @model_validator(mode="after")
    def _check_axis(self) -> Camera:
        forward = np.array(self.target_m) - np.array(self.position_m)
        if np.linalg.norm(forward[:2]) < 1e-3 * np.linalg.norm(forward) or not forward.any():
            raise ValueError(
                "the camera must not look straight up or down, where 'horizontal' says nothing; move target_m aside"
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
        """How much larger its images are than those of 240 rows for which lengths in pixels are configured."""
        return self.height_px / _CONFIGURED_PX

    def shown(self) -> NDArray[np.bool_]:
        """Return which pixels (H, W) of its images the model image shows."""
        inside = np.ones((self.height_px, self.width_px), bool)
        if self.crop is not None:
            inside[:] = False
            inside[self.crop.rows(), self.crop.columns()] = True
        return inside

    def project(self, points_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the pixels (N, 2), x then y, at which points (N, 3) of the base frame appear."""
        seen = (points_m - np.array(self.position_m)) @ self.axes().T
        pixels: NDArray[np.float64] = seen[:, :2] / seen[:, 2:] * self._focal_px() + self._center_px()
        return pixels

    def locate(self, pixels: NDArray[np.float64], height_m: float) -> NDArray[np.float64]:
        """Return the points (N, 3) at height z = `height_m` in the base frame that appear at pixels (N, 2)."""
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
    """Return what the model sees of a camera image: the crop, resized by area as RoboNet's loader does.

    Args:
        image: (H, W, 3) uint8 RGB at camera size, or already a model image.
        crop: Part of the image to keep; None keeps all of it.
        image_px: Side of the model image.

    Returns:
        (image_px, image_px, 3) uint8 RGB. An image that has the model's size already is returned as it is.
    """
    if image.shape[:2] == (image_px, image_px):
        return image
    height, width = image.shape[:2]
    return crop_and_resize(image, crop or Crop(top_px=0, left_px=0, height_px=height, width_px=width), image_px)


def camera_image(image: NDArray[np.uint8], camera: Camera) -> NDArray[np.uint8]:
    """Return a model image where the camera would show it: enlarged to its crop, black around it.

    Args:
        image: (px, px, 3) uint8 RGB, as `model_image` returns it.
        camera: Whose images it was made from.

    Returns:
        (H, W, 3) uint8 RGB at camera size, blurred by what the model image has lost.
    """
    crop = camera.crop or Crop(top_px=0, left_px=0, height_px=camera.height_px, width_px=camera.width_px)
    whole = np.zeros((camera.height_px, camera.width_px, 3), np.uint8)
    size = (crop.width_px, crop.height_px)
    whole[crop.rows(), crop.columns()] = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    return whole


def crop_and_resize(image: NDArray[np.uint8], crop: Crop, side_px: int) -> NDArray[np.uint8]:
    """Return a part of an image as a square of `side_px`, by area; where that enlarges, bilinearly.

    Args:
        image: (H, W, C) uint8; C may be that of several images, laid side by side.
        crop: Part of the image.
        side_px: Of the result.

    Returns:
        (side_px, side_px, C) uint8.
    """
    part = image[crop.rows(), crop.columns()]
    way = cv2.INTER_LINEAR if max(crop.height_px, crop.width_px) < side_px else cv2.INTER_AREA
    return np.asarray(cv2.resize(part, (side_px, side_px), interpolation=way), dtype=np.uint8)
