"""The simulated camera: a process that renders the scene and serves it as MJPEG on the loopback interface.

It renders this project's arm instead of franky-sim's, whose joints are equal but whose 242 000 triangles would occupy a
CPU core.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.sharedctypes import Synchronized, SynchronizedArray
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from configs.interruption import ignore_sigint, started_without_sigint
from robot_bridge.camera import Camera
from robot_bridge.simulation import renderer
from robot_bridge.simulation.fault_injection import IMAGE_FAULTS, ImageFault, add_image_fault
from robot_bridge.simulation.mujoco_import import mujoco

_NOISE: Final = 1.5  # standard deviation, of 255: enough to survive JPEG; ours
_TILES: Final = 8  # noise patterns, drawn once; ours
_QUALITY: Final = 95  # of JPEG; ours
_PERIOD_S: Final = 1 / 15
_START_S: Final = 60.0  # for the process to start on a busy machine; ours


@dataclass(frozen=True)
class _Shared:
    """Memory shared by the processes of arm and camera."""

    positions: SynchronizedArray[float]  # (nq,)
    fault: Synchronized[int]  # index of IMAGE_FAULTS
    port: Synchronized[int]  # 0 until the camera serves


class LibfrankaSimulatedCamera:
    """Controls the camera's process from the arm's process."""

    def __init__(self, scene_xml: str, camera: Camera) -> None:
        """Start the camera on a scene as MJCF text."""
        spawn = multiprocessing.get_context("spawn")
        n_positions = mujoco.MjModel.from_xml_string(scene_xml).nq
        self._shared = _Shared(spawn.Array("d", n_positions), spawn.Value("i", 0), spawn.Value("i", 0))
        self._process = spawn.Process(target=_serve, args=(scene_xml, camera, self._shared), daemon=True)
        with started_without_sigint():
            self._process.start()

    def set_positions(self, positions: NDArray[np.float64]) -> None:
        """Set the positions (nq,) to render."""
        with self._shared.positions.get_lock():
            self._shared.positions[:] = positions.tolist()

    def set_fault(self, fault: ImageFault) -> None:
        """Inject a fault, or end it."""
        self._shared.fault.value = IMAGE_FAULTS.index(fault)

    def address(self) -> str:
        """Wait until the camera serves, and return its address."""
        deadline_s = time.monotonic() + _START_S
        while not self._shared.port.value:
            if time.monotonic() > deadline_s or not self._process.is_alive():
                raise RuntimeError("the simulated camera did not start")
            time.sleep(0.05)
        return f"http://127.0.0.1:{self._shared.port.value}/"

    def close(self) -> None:
        """End the camera's process."""
        self._process.terminate()
        self._process.join()


class _LatestImage:
    """The latest JPEG image, for any number of clients."""

    def __init__(self) -> None:
        self._arrival = threading.Condition()
        self._jpeg, self._number = b"", 0

    def put(self, jpeg: bytes) -> None:
        with self._arrival:
            self._jpeg, self._number = jpeg, self._number + 1
            self._arrival.notify_all()

    def after(self, number: int) -> tuple[bytes, int]:
        with self._arrival:
            self._arrival.wait_for(lambda: self._number > number)
            return self._jpeg, self._number


def _serve(scene_xml: str, camera: Camera, shared: _Shared) -> None:
    """Render and serve until the arm's process ends."""
    ignore_sigint()  # a terminal sends it to both processes; that of the arm decides
    latest = _LatestImage()
    server = _start_server(latest)
    model = mujoco.MjModel.from_xml_string(scene_xml)
    scene_renderer = renderer.make(renderer.choose("auto"), model, camera)
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    noise = rng.normal(0.0, _NOISE, (_TILES, camera.height_px, camera.width_px, 3)).round().astype(np.int16)
    arm = multiprocessing.parent_process()
    while arm is not None and arm.is_alive():
        began_s = time.monotonic()
        fault = IMAGE_FAULTS[shared.fault.value]
        if fault not in {"frozen", "silent"}:
            data.qpos[:] = shared.positions[:]
            mujoco.mj_kinematics(model, data)
            mujoco.mj_camlight(model, data)
            jpeg = _encode(add_image_fault(scene_renderer.render(data) + noise[rng.integers(_TILES)], fault))
        if fault != "silent":
            latest.put(jpeg)
            shared.port.value = server.server_address[1]
        time.sleep(max(0.0, began_s + _PERIOD_S - time.monotonic()))


def _start_server(latest: _LatestImage) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=image")
            self.end_headers()
            number = 0
            while True:
                jpeg, number = latest.after(number)
                head = f"--image\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                try:
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
                except ConnectionError:
                    return

        def log_message(self, *_arguments: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _encode(image: NDArray[np.uint8]) -> bytes:
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes())
