"""The simulated camera: a process of its own that draws the scene and serves it as MJPEG on this machine alone.

It draws our own arm in place of franky-sim's, whose joints are the same and whose 242 000 triangles would take a core.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.sharedctypes import Synchronized, SynchronizedArray
from typing import Any, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from robot_bridge.camera import Camera
from robot_bridge.simulation import renderer
from robot_bridge.simulation.mujoco_import import mujoco

ImageFault = Literal["", "frozen", "silent", "dark", "saturated"]
IMAGE_FAULTS: Final[tuple[ImageFault, ...]] = ("", "frozen", "silent", "dark", "saturated")

_NOISE: Final = 1.5  # standard deviation of 255; enough to be there after JPEG
_TILES: Final = 8  # patterns of noise, drawn once
_QUALITY: Final = 95  # of JPEG
_PERIOD_S: Final = 1 / 15
_UP_S: Final = 60.0  # to start on a busy machine


@dataclass(frozen=True)
class _Shared:
    """What crosses between the arm's process and the camera's."""

    seen: SynchronizedArray[float]  # joint positions of everything
    trouble: Synchronized[int]  # index of TROUBLES
    port: Synchronized[int]  # 0 until the camera serves


class LibfrankaSimulatedCamera:
    """The camera as the arm's process sees it."""

    def __init__(self, scene_xml: str, camera: Camera) -> None:
        """Start the camera on a scene as MJCF text."""
        spawn = multiprocessing.get_context("spawn")
        n_positions = mujoco.MjModel.from_xml_string(scene_xml).nq
        self._shared = _Shared(spawn.Array("d", n_positions), spawn.Value("i", 0), spawn.Value("i", 0))
        self._process = spawn.Process(target=_serve, args=(scene_xml, camera, self._shared), daemon=True)
        self._process.start()

    def show(self, positions: NDArray[np.float64]) -> None:
        """Take the positions (nq,) of the present."""
        with self._shared.seen.get_lock():
            self._shared.seen[:] = positions.tolist()

    def trouble(self, name: ImageFault) -> None:
        """Switch a fault on, or all off."""
        self._shared.trouble.value = IMAGE_FAULTS.index(name)

    def address(self) -> str:
        """Wait until the camera serves, and return where."""
        deadline_s = time.monotonic() + _UP_S
        while not self._shared.port.value:
            if time.monotonic() > deadline_s or not self._process.is_alive():
                raise RuntimeError("the simulated camera did not start")
            time.sleep(0.05)
        return f"http://127.0.0.1:{self._shared.port.value}/"

    def close(self) -> None:
        """End the camera's process."""
        self._process.terminate()
        self._process.join()


class _Film:
    """The latest picture, for any number of viewers."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._jpeg, self._number = b"", 0

    def put(self, jpeg: bytes) -> None:
        with self._news:
            self._jpeg, self._number = jpeg, self._number + 1
            self._news.notify_all()

    def after(self, number: int) -> tuple[bytes, int]:
        with self._news:
            self._news.wait_for(lambda: self._number > number)
            return self._jpeg, self._number


def _serve(scene_xml: str, camera: Camera, shared: _Shared) -> None:
    film = _Film()

    class Viewer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
            self.end_headers()
            number = 0
            while True:
                jpeg, number = film.after(number)
                head = f"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                try:
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
                except ConnectionError:
                    return

        def log_message(self, *_arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Viewer)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    model = mujoco.MjModel.from_xml_string(scene_xml)
    eye = renderer.make(renderer.choose("auto"), model, camera)
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    noise = rng.normal(0.0, _NOISE, (_TILES, camera.height_px, camera.width_px, 3)).round().astype(np.int16)
    arm = multiprocessing.parent_process()
    while arm is not None and arm.is_alive():
        began_s = time.monotonic()
        trouble = IMAGE_FAULTS[shared.trouble.value]
        if trouble not in {"frozen", "silent"}:
            data.qpos[:] = shared.seen[:]
            mujoco.mj_kinematics(model, data)
            mujoco.mj_camlight(model, data)
            jpeg = _developed(eye.render(data) + noise[rng.integers(_TILES)], trouble)
        if trouble != "silent":
            film.put(jpeg)
            shared.port.value = server.server_address[1]
        time.sleep(max(0.0, began_s + _PERIOD_S - time.monotonic()))


def _developed(image: NDArray[np.int16], trouble: ImageFault) -> bytes:
    if trouble == "dark":
        image = image // 64
    if trouble == "saturated":
        image = image + 250
    pixels = cv2.cvtColor(np.clip(image, 0, 255).astype(np.uint8), cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes())
