"""The camera of an arm that is driven without ROS: a video device or a network stream, read by OpenCV."""

from __future__ import annotations

import threading
import time
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from robot_bridge.camera import Camera
from robot_bridge.franka.config import VideoConfig
from robot_bridge.franka.image_buffer import ImageBuffer

_AGAIN_S: Final = 0.5  # before a camera that is gone is opened anew
_OPEN_MS: Final = 3000
_READ_MS: Final = 1000
_CLOSE_S: Final = 5.0  # longer than any call of the thread


class VideoReader:
    """The latest picture of one camera. A camera that falls silent is opened anew until it speaks."""

    def __init__(self, config: VideoConfig, camera: Camera) -> None:
        """Start to look."""
        self._config, self._camera = config, camera
        self._pictures = ImageBuffer(f"camera {config.source}", config, camera)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def newer(self, than_s: float) -> tuple[NDArray[np.uint8], float]:
        """Wait for a picture that was taken after a moment; see `ImageBuffer.newer`."""
        return self._pictures.newer(than_s)

    def close(self) -> None:
        """Stop looking. Safe to call twice."""
        self._ends.set()
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while not self._ends.is_set():
            video = self._open()
            while not self._ends.is_set() and self._take(video):
                pass
            video.release()
            self._ends.wait(_AGAIN_S)

    def _take(self, video: Any) -> bool:
        """Hand on the next picture; return False where there is none."""
        is_there, pixels = video.read()
        if not is_there:
            return False
        # A picture has no time of its own: it is taken to be as old as the camera is slow.
        self._pictures.take(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), time.time() - self._config.latency_s)
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
