"""The latest picture of a real camera, given out only where it shows the present."""

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

_CLOCK_S = 0.05  # by which a stamp may be in the future: two clocks that agree differ by this much

Content = NDArray[np.uint8] | str | CameraFault  # (H, W, 3) RGB; or why it is no picture; or why none will ever be


class ImageSource(Protocol):
    """Where the pictures come from."""

    def newer(self, than_s: float) -> tuple[NDArray[np.uint8], float]:
        """Wait for a picture that was taken after a moment; see `ImageBuffer.newer`."""
        ...


@dataclass(frozen=True)
class BufferedImage:
    """One picture as it came."""

    content: Content
    arrived_s: float  # monotonic
    stamp_s: float  # by the clock of the machine that the camera is on
    n_identical: int  # pictures before it that were the same


class ImageBuffer:
    """Takes pictures from any thread, and lets one caller wait for those that it may use."""

    def __init__(self, name: str, config: ImageConfig, camera: Camera) -> None:
        """Name the camera as its faults shall."""
        self._name, self._config, self._camera = name, config, camera
        self._latest: BufferedImage | None = None
        self._news = threading.Condition()

    def take(self, content: Content, stamp_s: float) -> None:
        """Take a picture as it comes, with the time (of `time.time`) at which it was taken."""
        with self._news:
            before = self._latest
            is_same = before is not None and _equal(before.content, content)
            n_identical = before.n_identical + 1 if before is not None and is_same else 0
            self._latest = BufferedImage(content, time.monotonic(), stamp_s, n_identical)
            self._news.notify_all()

    def newer(self, than_s: float) -> tuple[NDArray[np.uint8], float]:
        """Wait for a picture that was taken after a moment, and return it.

        Args:
            than_s: Monotonic; the picture's own stamp must be later, too.

        Returns:
            (H, W, 3) uint8 RGB, and when it arrived, monotonic.

        Raises:
            CameraFault: None came in time; the message says whether the camera is silent, late, frozen, dark or
                saturated, or of another size.
        """
        deadline_s = time.monotonic() + self._config.timeout_s
        since_s = time.time() - (time.monotonic() - than_s)  # the same moment by the clock that stamps
        wrong = "no picture at all"
        seen: BufferedImage | None = None
        while True:
            with self._news:
                while self._latest is seen:
                    if not wait_for(self._news.wait, deadline_s - time.monotonic()):
                        raise CameraFault(
                            f"{self._name}: {wrong} within {self._config.timeout_s:g} s; look at the camera"
                        )
                seen = self._latest
            assert seen is not None  # noqa: S101 - only `take` ever sets another one
            if isinstance(seen.content, CameraFault):
                raise seen.content
            if seen.arrived_s <= than_s or seen.stamp_s <= since_s:
                wrong = f"none newer than the motion (the last is {time.time() - seen.stamp_s:.2f} s old)"
            elif isinstance(seen.content, str):
                wrong = seen.content
            elif reason := self._fault(seen, seen.content):
                wrong = reason
            else:
                return seen.content, seen.arrived_s

    def _fault(self, picture: BufferedImage, pixels: NDArray[np.uint8]) -> str:
        """Return what is wrong with a picture, or an empty text."""
        age_s = time.time() - picture.stamp_s
        if not -_CLOCK_S < age_s < self._config.max_age_s:
            return f"a picture {age_s:.2f} s old, where one of the last {self._config.max_age_s:g} s was expected"
        expected = (self._camera.height_px, self._camera.width_px, 3)
        if pixels.shape != expected:
            raise CameraFault(
                f"{self._name}: expected a picture of {expected[0]}x{expected[1]}, got {pixels.shape[0]}x"
                f"{pixels.shape[1]}; set the camera, or robot.camera, to the same"
            )
        if picture.n_identical:
            return f"a frozen camera: {picture.n_identical + 1} equal pictures in a row"
        low, high = self._config.brightness
        mean = float(pixels.mean())
        if not low <= mean <= high:
            return f"a picture of mean brightness {mean:.0f}, where {low:g} to {high:g} was expected"
        return ""


def _equal(one: Content, other: Content) -> bool:
    return isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and np.array_equal(one, other)
