"""The camera over ROS: a topic of sensor_msgs/Image, read without cv_bridge."""

from __future__ import annotations

from typing import Any

import numpy as np
import rospy
from numpy.typing import NDArray
from sensor_msgs.msg import Image

from robot_bridge.camera import Camera
from robot_bridge.franka.configuration import FeedConfig
from robot_bridge.franka.image_buffer import Content, Pictures
from robot_bridge.robot import CameraFault

_BUFFER_BYTES = 2**24  # more than any picture: a smaller one would keep rospy behind the present
_CHANNELS = {"rgb8": slice(None), "bgr8": slice(None, None, -1)}


class ImageFeed:
    """The latest picture of one topic."""

    def __init__(self, config: FeedConfig, camera: Camera) -> None:
        """Subscribe."""
        self._topic, self._camera = config.topic, camera
        self._pictures = Pictures(config.topic, config, camera)
        self._subscriber = rospy.Subscriber(
            config.topic, Image, self._take, queue_size=1, buff_size=_BUFFER_BYTES, tcp_nodelay=True
        )

    def newer(self, than_s: float) -> tuple[NDArray[np.uint8], float]:
        """Wait for a picture that was taken after a moment; see `Pictures.newer`."""
        return self._pictures.newer(than_s)

    def close(self) -> None:
        """Stop listening."""
        self._subscriber.unregister()

    def _take(self, message: Any) -> None:
        self._pictures.take(self._content(message), message.header.stamp.to_sec())

    def _content(self, message: Any) -> Content:
        camera, size = self._camera, (message.height, message.width)
        if size != (camera.height_px, camera.width_px) or message.encoding not in _CHANNELS:
            return CameraFault(
                f"{self._topic}: expected {camera.height_px}x{camera.width_px} rgb8 or bgr8, got "
                f"{size[0]}x{size[1]} {message.encoding}; set the camera, or robot.camera, to the same"
            )
        if len(message.data) != size[0] * message.step or message.step < 3 * size[1]:
            return f"a torn picture of {len(message.data)} bytes"
        rows = np.frombuffer(message.data, np.uint8).reshape(size[0], message.step)
        image = rows[:, : 3 * size[1]].reshape(*size, 3)
        return np.ascontiguousarray(image[..., _CHANNELS[message.encoding]])
