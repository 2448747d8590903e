"""Buffer of the latest image of a real camera; it returns only images that are recent, new and valid."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from configs.interruption import wait_for
from robot_bridge.camera import Camera
from robot_bridge.franka.config import ImageConfig
from robot_bridge.robot import CameraFault

_CLOCK_S = 0.05  # a stamp may be this far in the future, as synchronised clocks differ; ours

Content = NDArray[np.uint8] | str | CameraFault  # (H, W, 3) RGB, or why the image is invalid, or a permanent fault


class ImageSource(Protocol):
    """A camera that delivers images."""

    def newer(self, than_s: float) -> tuple[NDArray[np.uint8], float]:
        """Wait for an image taken after a monotonic time; see `ImageBuffer.newer`."""
        ...


@dataclass(frozen=True)
class BufferedImage:
    """One received image."""

    content: Content
    arrived_s: float  # monotonic
    stamp_s: float  # by the clock of the camera's machine
    n_identical: int  # number of identical images directly before it


class ImageBuffer:
    """Takes images from any thread; one caller waits for a usable one."""

    def __init__(self, name: str, config: ImageConfig, camera: Camera) -> None:
        """Set the camera's name in faults, the checks, and the expected size."""
        self._name, self._config, self._camera = name, config, camera
        self._latest: BufferedImage | None = None
        self._arrival = threading.Condition()

    def put(self, content: Content, stamp_s: float) -> None:
        """Store a received image with the time (of `time.time`) at which it was taken."""
        with self._arrival:
            before = self._latest
            is_same = before is not None and _equal(before.content, content)
            n_identical = before.n_identical + 1 if before is not None and is_same else 0
            self._latest = BufferedImage(content, time.monotonic(), stamp_s, n_identical)
            self._arrival.notify_all()

    def newer(self, than_s: float) -> tuple[NDArray[np.uint8], float]:
        """Wait for a valid image that was taken after a moment, and return it.

        Args:
            than_s: Monotonic; both the image's arrival and its stamp must be later.

        Returns:
            (H, W, 3) uint8 RGB, and its monotonic arrival time.

        Raises:
            CameraFault: None came in time; the message says whether the camera is silent, late, frozen, dark or
                saturated, or of another size.
        """
        deadline_s = time.monotonic() + self._config.timeout_s
        since_s = time.time() - (time.monotonic() - than_s)  # the same moment by the clock of the stamps
        reason = "got no image"
        latest: BufferedImage | None = None
        while True:
            with self._arrival:
                while self._latest is latest:
                    if not wait_for(self._arrival.wait, deadline_s - time.monotonic()):
                        raise CameraFault(
                            f"{self._name}: expected a new image within {self._config.timeout_s:g} s, {reason}; "
                            "check the camera"
                        )
                latest = self._latest
            assert latest is not None  # noqa: S101 - `put` never stores None
            if isinstance(latest.content, CameraFault):
                raise latest.content
            if latest.arrived_s <= than_s or latest.stamp_s <= since_s:
                reason = f"got none newer than the motion (the last is {time.time() - latest.stamp_s:.2f} s old)"
            elif isinstance(latest.content, str):
                reason = f"got {latest.content}"
            elif fault := self._fault(latest, latest.content):
                reason = f"got {fault}"
            else:
                return latest.content, latest.arrived_s

    def _fault(self, image: BufferedImage, pixels: NDArray[np.uint8]) -> str:
        """Return why an image is not valid, or an empty text."""
        age_s = time.time() - image.stamp_s
        if not -_CLOCK_S < age_s < self._config.max_age_s:
            return f"an image {age_s:.2f} s old, where at most {self._config.max_age_s:g} s are allowed"
        expected = (self._camera.height_px, self._camera.width_px, 3)
        if pixels.shape != expected:
            raise CameraFault(
                f"{self._name}: expected an image of {expected[0]}x{expected[1]}, got {pixels.shape[0]}x"
                f"{pixels.shape[1]}; set the camera and robot.camera to the same size"
            )
        if image.n_identical:
            return f"a frozen camera: {image.n_identical + 1} identical images in a row"
        low, high = self._config.brightness
        mean = float(pixels.mean())
        if not low <= mean <= high:
            return f"an image of mean brightness {mean:.0f}, where {low:g} to {high:g} is allowed"
        return ""


def _equal(one: Content, other: Content) -> bool:
    return isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and np.array_equal(one, other)
