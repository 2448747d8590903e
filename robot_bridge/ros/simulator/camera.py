"""The simulated camera's node: renders in a thread of its own, with a sensor's faint noise."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
import rospy
from numpy.typing import NDArray
from sensor_msgs.msg import Image

from robot_bridge.camera import Camera
from robot_bridge.simulation.config import RendererName
from robot_bridge.simulation.realtime import RealtimeCamera, RealtimeSimulation

_NOISE = 1.0  # standard deviation of 255; a good sensor in good light
_TILES = 8  # patterns of noise, drawn once: drawing as many numbers for every picture would cost more than rendering

ImageFault = Literal["", "frozen", "silent", "dark", "saturated"]


@dataclass(frozen=True)
class CameraSettings:
    """What the camera is."""

    topic: str
    camera: Camera
    renderer: RendererName
    rate_hz: float
    encoding: Literal["rgb8", "bgr8"]


class RosSimulatedCamera:
    """Publishes what the camera sees until closed."""

    def __init__(self, lens: CameraSettings, simulation: RealtimeSimulation, rng: np.random.Generator) -> None:
        """Start."""
        self._lens, self._simulation = lens, simulation
        shape = (_TILES, lens.camera.height_px, lens.camera.width_px, 3)
        self._noise = rng.normal(0.0, _NOISE, shape).round().astype(np.int16)
        self._rng = rng
        self.trouble: ImageFault = ""
        self._ends = threading.Event()
        self._publisher = rospy.Publisher(lens.topic, Image, queue_size=1)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def take(self, simulation: RealtimeSimulation) -> None:
        """Look at another scene."""
        self._simulation = simulation

    def close(self) -> None:
        """Stop."""
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        simulation, eye, picture = self._simulation, None, None
        due_s = time.monotonic()
        while not self._ends.wait(max(0.0, due_s - time.monotonic())):
            due_s = max(due_s, time.monotonic() - 0.1) + 1 / self._lens.rate_hz
            if eye is None or simulation is not self._simulation:
                if eye is not None:
                    eye.close()
                simulation = self._simulation
                eye = RealtimeCamera(simulation, self._lens.renderer, self._lens.camera)
            trouble = self.trouble
            if trouble == "silent":
                continue
            stamp = rospy.Time.now()
            if trouble != "frozen" or picture is None:
                picture = self._degraded(eye.look(), trouble)
            self._publish(picture, stamp)
        if eye is not None:
            eye.close()

    def _degraded(self, image: NDArray[np.uint8], trouble: ImageFault) -> NDArray[np.uint8]:
        tile = self._noise[self._rng.integers(_TILES)]
        shift = int(self._rng.integers(image.shape[1]))
        noisy = image + np.roll(tile, shift, axis=1)
        if trouble == "dark":
            noisy //= 64
        if trouble == "saturated":
            noisy += 250
        degraded: NDArray[np.uint8] = np.clip(noisy, 0, 255).astype(np.uint8)
        return degraded

    def _publish(self, picture: NDArray[np.uint8], stamp: rospy.Time) -> None:
        height, width, _ = picture.shape
        if self._lens.encoding == "bgr8":
            picture = np.ascontiguousarray(picture[..., ::-1])
        message = Image(
            height=height, width=width, encoding=self._lens.encoding, step=3 * width, data=picture.tobytes()
        )
        message.header.stamp = stamp
        message.header.frame_id = "camera"
        self._publisher.publish(message)
