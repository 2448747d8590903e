"""Node of the simulated camera: renders in a thread of its own and adds sensor noise."""

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
from robot_bridge.simulation.fault_injection import ImageFault, add_image_fault
from robot_bridge.simulation.realtime import RealtimeCamera, RealtimeSimulation

_NOISE = 1.0  # standard deviation, of 255: a good sensor in good light; ours
_TILES = 8  # noise patterns, drawn once: drawing noise for every image would take longer than rendering; ours


@dataclass(frozen=True)
class CameraSettings:
    """Settings of the camera node."""

    topic: str
    camera: Camera
    renderer: RendererName
    rate_hz: float
    encoding: Literal["rgb8", "bgr8"]


class RosSimulatedCamera:
    """Publishes camera images until closed."""

    def __init__(self, settings: CameraSettings, simulation: RealtimeSimulation, rng: np.random.Generator) -> None:
        """Start publishing."""
        self._settings, self._simulation = settings, simulation
        shape = (_TILES, settings.camera.height_px, settings.camera.width_px, 3)
        self._noise = rng.normal(0.0, _NOISE, shape).round().astype(np.int16)
        self._rng = rng
        self.fault: ImageFault = ""
        self._closing = threading.Event()
        self._publisher = rospy.Publisher(settings.topic, Image, queue_size=1)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def set_simulation(self, simulation: RealtimeSimulation) -> None:
        """Render another scene."""
        self._simulation = simulation

    def close(self) -> None:
        """Stop publishing."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        simulation, camera, image = self._simulation, None, None
        due_s = time.monotonic()
        while not self._closing.wait(max(0.0, due_s - time.monotonic())):
            due_s = max(due_s, time.monotonic() - 0.1) + 1 / self._settings.rate_hz
            if camera is None or simulation is not self._simulation:
                if camera is not None:
                    camera.close()
                simulation = self._simulation
                camera = RealtimeCamera(simulation, self._settings.renderer, self._settings.camera)
            fault = self.fault
            if fault == "silent":
                continue
            stamp = rospy.Time.now()
            if fault != "frozen" or image is None:
                image = add_image_fault(self._add_noise(camera.render()), fault)
            self._publish(image, stamp)
        if camera is not None:
            camera.close()

    def _add_noise(self, image: NDArray[np.uint8]) -> NDArray[np.int16]:
        tile = self._noise[self._rng.integers(_TILES)]
        shift = int(self._rng.integers(image.shape[1]))
        noisy: NDArray[np.int16] = image + np.roll(tile, shift, axis=1)
        return noisy

    def _publish(self, image: NDArray[np.uint8], stamp: rospy.Time) -> None:
        height, width, _ = image.shape
        encoding = self._settings.encoding
        if encoding == "bgr8":
            image = np.ascontiguousarray(image[..., ::-1])
        message = Image(height=height, width=width, encoding=encoding, step=3 * width, data=image.tobytes())
        message.header.stamp = stamp
        message.header.frame_id = "camera"
        self._publisher.publish(message)
