"""The camera's pictures: only those that show the present."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import rospy
from numpy.typing import NDArray
from sensor_msgs.msg import Image

from robot_bridge.camera import Camera
from robot_bridge.robot import CameraFault
from robot_bridge.ros.configuration import FeedConfig

_BUFFER_BYTES = 2**24  # more than any picture: a smaller one would keep rospy behind the present
_CHANNELS = {"rgb8": slice(None), "bgr8": slice(None, None, -1)}
_CLOCK_S = 0.05  # by which a stamp may be in the future: two clocks that agree differ by this much


@dataclass(frozen=True)
class Picture:
    """One picture as it came."""

    message: Any
    arrived_s: float  # monotonic
    stamp_s: float  # of the machine that the camera is on
    n_identical: int  # pictures before it that were the same


class ImageFeed:
    """The latest picture of one topic."""

    def __init__(self, config: FeedConfig, camera: Camera) -> None:
        """Subscribe."""
        self._config, self._camera = config, camera
        self._latest: Picture | None = None
        self._news = threading.Condition()
        self._subscriber = rospy.Subscriber(
            config.topic, Image, self._take, queue_size=1, buff_size=_BUFFER_BYTES, tcp_nodelay=True
        )

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
        seen: Picture | None = None
        while True:
            with self._news:
                while self._latest is seen:
                    if not self._news.wait(max(0.0, deadline_s - time.monotonic())):
                        raise CameraFault(
                            f"{self._config.topic}: {wrong} within {self._config.timeout_s:g} s; look at the camera"
                        )
                seen = self._latest
            assert seen is not None  # noqa: S101 - only `_take` ever sets another one
            if seen.arrived_s <= than_s or seen.stamp_s <= since_s:
                wrong = f"none newer than the motion (the last is {time.time() - seen.stamp_s:.2f} s old)"
            elif reason := self._fault(seen):
                wrong = reason
            else:
                return self._pixels(seen), seen.arrived_s

    def close(self) -> None:
        """Stop listening."""
        self._subscriber.unregister()

    def _fault(self, picture: Picture) -> str:
        """Return what is wrong with a picture, or an empty text."""
        message, camera = picture.message, self._camera
        age_s = time.time() - picture.stamp_s
        if not -_CLOCK_S < age_s < self._config.age_s:
            return f"a picture {age_s:.2f} s old, where one of the last {self._config.age_s:g} s was expected"
        size = (message.height, message.width)
        if size != (camera.height_px, camera.width_px) or message.encoding not in _CHANNELS:
            raise CameraFault(
                f"{self._config.topic}: expected {camera.height_px}x{camera.width_px} rgb8 or bgr8, got "
                f"{size[0]}x{size[1]} {message.encoding}; set the camera, or robot.camera, to the same"
            )
        if len(message.data) != size[0] * message.step or message.step < 3 * size[1]:
            return f"a torn picture of {len(message.data)} bytes"
        if picture.n_identical:
            return f"a frozen camera: {picture.n_identical + 1} equal pictures in a row"
        low, high = self._config.brightness
        mean = float(self._pixels(picture).mean())
        if not low <= mean <= high:
            return f"a picture of mean brightness {mean:.0f}, where {low:g} to {high:g} was expected"
        return ""

    @staticmethod
    def _pixels(picture: Picture) -> NDArray[np.uint8]:
        message = picture.message
        rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
        image = rows[:, : 3 * message.width].reshape(message.height, message.width, 3)
        return np.ascontiguousarray(image[..., _CHANNELS[message.encoding]])

    def _take(self, message: Any) -> None:
        with self._news:
            before = self._latest
            is_same = before is not None and before.message.data == message.data
            n_identical = before.n_identical + 1 if before is not None and is_same else 0
            self._latest = Picture(message, time.monotonic(), message.header.stamp.to_sec(), n_identical)
            self._news.notify_all()
