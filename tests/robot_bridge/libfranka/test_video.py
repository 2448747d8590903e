"""Images of a video stream: only recent and valid ones are returned. No arm is needed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from configs.loader import Config, load
from robot_bridge.franka.config import FrankaDirectConfig, VideoStreamConfig
from robot_bridge.libfranka.video_stream import VideoReader
from robot_bridge.robot import CameraFault

Make = Callable[[], NDArray[np.uint8] | None]


class _Sections(Config):
    robot: FrankaDirectConfig


CAMERA = load(_Sections, {"robot": "robots/franka_direct.yaml"}).robot.camera
RNG = np.random.default_rng(0)


def draw_image(low: int = 60, high: int = 180) -> NDArray[np.uint8]:
    coarse = RNG.integers(low, high, (CAMERA.height_px // 16, CAMERA.width_px // 16, 3), dtype=np.uint8)
    return coarse.repeat(16, axis=0).repeat(16, axis=1)


STILL = draw_image()


class Stream:
    """An MJPEG stream of the images that `make` returns, 20 a second; None sends no image."""

    def __init__(self, make: Make) -> None:
        self.make = make
        stream = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=image")
                self.end_headers()
                while not stream.closing.wait(0.05):
                    pixels = stream.make()
                    if pixels is not None:
                        jpeg = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
                        head = f"--image\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                        try:
                            self.wfile.write(head.encode() + jpeg + b"\r\n")
                        except ConnectionError:
                            return

            def log_message(self, *_arguments: object) -> None:
                pass

        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.source = f"http://127.0.0.1:{self._server.server_address[1]}/"

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def stream() -> Iterator[Stream]:
    stream = Stream(draw_image)
    yield stream
    stream.close()


@pytest.fixture
def reader(stream: Stream) -> Iterator[VideoReader]:
    reader = VideoReader(VideoStreamConfig(source=stream.source, timeout_s=2.0), CAMERA)
    yield reader
    reader.close()


def test_image_is_newer_than_the_motion_by_the_latency(reader: VideoReader) -> None:
    for _ in range(3):
        rested_s = time.monotonic()
        image, arrived_s = reader.newer(rested_s)
        assert image.shape == (CAMERA.height_px, CAMERA.width_px, 3)
        assert arrived_s - rested_s > 0.1


def test_channels_are_rgb(stream: Stream, reader: VideoReader) -> None:
    stream.make = lambda: draw_image() // np.array([1, 2, 8], dtype=np.uint8)
    time.sleep(0.2)
    red, green, blue = reader.newer(time.monotonic())[0].mean(axis=(0, 1))
    assert red > green + 20 > blue + 40


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: None, r"none newer than the motion|no image"),
        (lambda: draw_image(0, 4), "mean brightness"),
        (lambda: draw_image(252, 256), "mean brightness"),
        (lambda: STILL, "a frozen camera"),
    ],
)
def test_invalid_image_is_refused(stream: Stream, reader: VideoReader, make: Make, message: str) -> None:
    reader.newer(time.monotonic())
    stream.make = make
    time.sleep(0.3)
    with pytest.raises(CameraFault, match=message):
        reader.newer(time.monotonic())


def test_other_size_is_refused(stream: Stream, reader: VideoReader) -> None:
    stream.make = lambda: RNG.integers(60, 180, (480, 640, 3), dtype=np.uint8)
    with pytest.raises(CameraFault, match="expected an image of 240x320, got 480x640"):
        reader.newer(time.monotonic())


def test_missing_camera_is_reported() -> None:
    reader = VideoReader(VideoStreamConfig(source="http://127.0.0.1:9/", timeout_s=0.5), CAMERA)
    with pytest.raises(CameraFault, match="no image"):
        reader.newer(time.monotonic())
    reader.close()
