"""Images over ROS: only recent and valid ones are returned."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("rospy", reason="ROS is not installed; ./bootstrap.sh ros installs it")

import rospy
from sensor_msgs.msg import Image

from robot_bridge.camera import Camera
from robot_bridge.franka.config import RosImageConfig
from robot_bridge.robot import CameraFault
from robot_bridge.ros.driver import Master
from robot_bridge.ros.subscribers import RosImageSubscriber
from tests.patience import relaxed
from tests.robot_bridge.ros.configurations import config
from tests.robot_bridge.ros.rig import Rig

pytestmark = pytest.mark.ros

IMAGES = RosImageConfig(topic="/test/images", timeout_s=relaxed(1.0, 30.0))
CAMERA = config().camera
Change = Callable[[Any], None]


def camera_pixels(rng: np.random.Generator, camera: Camera = CAMERA) -> NDArray[np.uint8]:
    return rng.integers(60, 180, (camera.height_px, camera.width_px, 3), dtype=np.uint8)


def message(pixels: NDArray[np.uint8], encoding: str = "rgb8") -> Any:
    height, width, _ = pixels.shape
    result = Image(height=height, width=width, encoding=encoding, step=3 * width, data=pixels.tobytes())
    result.header.stamp = rospy.Time.now()
    return result


class Sender:
    """Publishes messages from a thread, 20 times a second."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._publisher = rospy.Publisher(IMAGES.topic, Image, queue_size=1)
        self._make = make
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._publisher.unregister()

    def _run(self) -> None:
        while not self._closing.wait(0.05):
            self._publisher.publish(self._make())


@pytest.fixture
def feed(master: Rig) -> Iterator[RosImageSubscriber]:
    Master("test_images", 5.0)
    feed = RosImageSubscriber(IMAGES, CAMERA)
    yield feed
    feed.close()


@pytest.fixture
def send() -> Iterator[Callable[[Callable[[], Any]], None]]:
    senders: list[Sender] = []
    yield lambda make: senders.append(Sender(make))
    for sender in senders:
        sender.close()


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
@pytest.mark.parametrize("padding", [0, 64])
def test_pixels_are_unchanged(
    feed: RosImageSubscriber, send: Callable[[Callable[[], Any]], None], encoding: str, padding: int
) -> None:
    rng = np.random.default_rng(0)
    published: list[NDArray[np.uint8]] = []

    def make() -> Any:
        published.append(camera_pixels(rng))
        sent = message(published[-1] if encoding == "rgb8" else published[-1][..., ::-1].copy(), encoding)
        rows = np.frombuffer(sent.data, np.uint8).reshape(CAMERA.height_px, -1)
        sent.data = np.pad(rows, ((0, 0), (0, padding))).tobytes()
        sent.step += padding
        return sent

    send(make)
    image, arrived_s = feed.newer(time.monotonic())
    assert image.flags.c_contiguous
    assert any((image == each).all() for each in published)
    assert arrived_s <= time.monotonic()


def test_missing_images_are_reported(feed: RosImageSubscriber) -> None:
    began_s = time.monotonic()
    with pytest.raises(CameraFault, match=r"expected a new image within .* s, got no image; check the camera"):
        feed.newer(time.monotonic())
    assert time.monotonic() - began_s >= 1.0


def _late(sent: Any) -> None:
    sent.header.stamp -= rospy.Duration.from_sec(0.8)


def _ahead(sent: Any) -> None:
    sent.header.stamp += rospy.Duration.from_sec(30)


def _incomplete(sent: Any) -> None:
    sent.data = sent.data[:-5000]


def _dark(sent: Any) -> None:
    sent.data = (np.frombuffer(sent.data, np.uint8) // 32).tobytes()


def _bright(sent: Any) -> None:
    sent.data = (255 - np.frombuffer(sent.data, np.uint8) // 32).tobytes()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_late, "s old"),
        (_ahead, "where at most 0.5 s are allowed"),
        (_incomplete, "an incomplete image"),
        (_dark, "mean brightness"),
        (_bright, "mean brightness"),
    ],
)
def test_invalid_image_is_refused(
    feed: RosImageSubscriber, send: Callable[[Callable[[], Any]], None], change: Change, reason: str
) -> None:
    rng = np.random.default_rng(0)

    def make() -> Any:
        sent = message(camera_pixels(rng))
        change(sent)
        return sent

    send(make)
    with pytest.raises(CameraFault, match=reason):
        feed.newer(time.monotonic())


def test_identical_images_are_a_frozen_camera(
    feed: RosImageSubscriber, send: Callable[[Callable[[], Any]], None]
) -> None:
    still = camera_pixels(np.random.default_rng(0))
    send(lambda: message(still))
    feed.newer(time.monotonic() - 0.2)  # the first one is new
    with pytest.raises(CameraFault, match=r"a frozen camera: .* identical images in a row"):
        feed.newer(time.monotonic())


@pytest.mark.parametrize(("size", "encoding"), [((480, 640), "rgb8"), ((240, 320), "mono8")])
def test_other_size_or_encoding_is_refused_immediately(
    feed: RosImageSubscriber, send: Callable[[Callable[[], Any]], None], size: tuple[int, int], encoding: str
) -> None:
    rng = np.random.default_rng(0)
    send(lambda: message(rng.integers(60, 180, (*size, 3), dtype=np.uint8), encoding))
    with pytest.raises(CameraFault, match=f"expected 240x320 rgb8 or bgr8, got {size[0]}x{size[1]} {encoding}"):
        feed.newer(time.monotonic())


def test_old_image_is_not_returned_as_new(feed: RosImageSubscriber, send: Callable[[Callable[[], Any]], None]) -> None:
    rng = np.random.default_rng(0)
    send(lambda: message(camera_pixels(rng)))
    for _ in range(5):
        now_s = time.monotonic()
        assert feed.newer(now_s)[1] > now_s
