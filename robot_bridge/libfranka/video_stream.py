"""The camera of an arm without ROS: a video device or a network stream, read by OpenCV."""

from __future__ import annotations

import threading
import time
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from robot_bridge.camera import Camera
from robot_bridge.franka.config import VideoStreamConfig
from robot_bridge.franka.image_buffer import ImageBuffer

_REOPEN_S: Final = 0.5  # before a camera that delivers no images is opened again; ours
_OPEN_MS: Final = 3000  # timeouts of OpenCV; ours
_READ_MS: Final = 1000
_CLOSE_S: Final = 5.0  # longer than any call of the reading thread


class VideoReader:
    """The latest image of one camera. A camera that delivers no images is reopened until it does."""

    def __init__(self, config: VideoStreamConfig, camera: Camera) -> None:
        """Start reading in a thread."""
        self._config, self._camera = config, camera
        self._buffer = ImageBuffer(f"camera {config.source}", config, camera)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def newer(self, than_s: float) -> tuple[NDArray[np.uint8], float]:
        """Wait for an image taken after a monotonic time; see `ImageBuffer.newer`."""
        return self._buffer.newer(than_s)

    def close(self) -> None:
        """Stop reading. Safe to call twice."""
        self._closing.set()
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while not self._closing.is_set():
            video = self._open()
            while not self._closing.is_set() and self._read(video):
                pass
            video.release()
            self._closing.wait(_REOPEN_S)

    def _read(self, video: Any) -> bool:
        """Store the next image; return False if there is none."""
        is_read, pixels = video.read()
        if not is_read:
            return False
        # Video frames carry no time stamp: each is assumed to be `latency_s` old.
        self._buffer.put(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), time.time() - self._config.latency_s)
        return True

    def _open(self) -> Any:
        source, camera = self._config.source, self._camera
        if isinstance(source, str):
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_MS]
            return cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
        video = cv2.VideoCapture(source)
        video.set(cv2.CAP_PROP_FRAME_HEIGHT, camera.height_px)
        video.set(cv2.CAP_PROP_FRAME_WIDTH, camera.width_px)
        video.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the latest only, where the driver can
        return video
