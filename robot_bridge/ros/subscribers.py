"""What the driver says of the arm, never older than it may be."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import rospy
from numpy.typing import NDArray
from sensor_msgs.msg import Image, JointState

from configs.interruption import wait_for
from robot_bridge.camera import Camera
from robot_bridge.franka.config import RosImageConfig
from robot_bridge.franka.image_buffer import Content, ImageBuffer
from robot_bridge.franka.state import ArmState, StaleState
from robot_bridge.kinematics import N_JOINTS
from robot_bridge.robot import CameraFault
from robot_bridge.ros import names
from robot_bridge.ros.messages import Types

_BUFFER_BYTES = 2**24  # more than any picture: a smaller one would keep rospy behind the present
_CHANNELS = {"rgb8": slice(None), "bgr8": slice(None, None, -1)}


class RosImageSubscriber:
    """The latest picture of one topic."""

    def __init__(self, config: RosImageConfig, camera: Camera) -> None:
        """Subscribe."""
        self._topic, self._camera = config.topic, camera
        self._pictures = ImageBuffer(config.topic, config, camera)
        self._subscriber = rospy.Subscriber(
            config.topic, Image, self._take, queue_size=1, buff_size=_BUFFER_BYTES, tcp_nodelay=True
        )

    def newer(self, than_s: float) -> tuple[NDArray[np.uint8], float]:
        """Wait for a picture that was taken after a moment; see `ImageBuffer.newer`."""
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


class RosStateSubscriber:
    """The latest state of the arm, put together from three topics."""

    def __init__(self, types: Types, age_s: float) -> None:
        """Subscribe; nothing older than `age_s` is ever given out."""
        self._age_s = age_s
        self._latest: dict[str, tuple[float, Any]] = {}
        self._news = threading.Condition()
        topics = {
            names.ROBOT_STATE: types["franka_core_msgs/RobotState"],
            names.TIP_STATE: types["franka_core_msgs/EndPointState"],
            names.JOINT_STATES: JointState,
        }
        self._topics = tuple(topics)
        self._subscribers = [
            rospy.Subscriber(topic, type_, self._take, topic, queue_size=1, tcp_nodelay=True)
            for topic, type_ in topics.items()
        ]

    def fresh(self) -> ArmState:
        """Return the state now.

        Raises:
            StaleState: It is older than it may be, or not finite.
        """
        with self._news:
            parts = {topic: self._latest.get(topic) for topic in self._topics}
        now_s = time.monotonic()
        for topic, part in parts.items():
            if part is None or now_s - part[0] > self._age_s:
                age = "none" if part is None else f"one of {now_s - part[0]:.2f} s"
                raise StaleState(
                    f"{topic}: expected a state of the last {self._age_s:g} s, got {age}; look at the driver"
                )
        return _put_together(*(part for part in parts.values() if part is not None))

    def newer(self, than_s: float, timeout_s: float) -> ArmState:
        """Wait for a state of which every part came after a monotonic time, and return it.

        Raises:
            StaleState: None came in time.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._news:
            while not all(self._came_s(topic) > than_s for topic in self._topics):
                if not wait_for(self._news.wait, deadline_s - time.monotonic()):
                    break
        return self.fresh()

    def close(self) -> None:
        """Stop listening."""
        for subscriber in self._subscribers:
            subscriber.unregister()

    def _came_s(self, topic: str) -> float:
        return self._latest[topic][0] if topic in self._latest else -np.inf

    def _take(self, message: Any, topic: str) -> None:
        with self._news:
            self._latest[topic] = (time.monotonic(), message)
            self._news.notify_all()


def _put_together(robot: tuple[float, Any], tip: tuple[float, Any], joints: tuple[float, Any]) -> ArmState:
    by_name = dict(zip(joints[1].name, zip(joints[1].position, joints[1].velocity, strict=True), strict=True))
    if not by_name.keys() >= set(names.JOINTS):
        raise StaleState(f"{names.JOINT_STATES}: expected {', '.join(names.JOINTS)}, got {', '.join(by_name)}")
    measured = np.array([by_name[name] for name in names.JOINTS])
    pose = np.array(tip[1].O_T_EE).reshape(4, 4).T  # column by column
    force = tip[1].O_F_ext_hat_K.wrench.force
    state = ArmState(
        joints_rad=measured[:, 0],
        speeds_rad_s=measured[:, 1],
        desired_rad=np.array(robot[1].q_d),
        hand_m=pose[:3, 3],
        yaw_rad=float(np.arctan2(pose[1, 0], pose[0, 0])),
        force_n=np.array([force.x, force.y, force.z]),
        mode=int(robot[1].robot_mode),
        errors=tuple(name for name in robot[1].current_errors.__slots__ if getattr(robot[1].current_errors, name)),
        flange_to_tip=np.array(robot[1].F_T_EE).reshape(4, 4).T,
        time_s=min(robot[0], tip[0], joints[0]),
    )
    if not state.is_finite() or len(state.desired_rad) != N_JOINTS:
        raise StaleState(
            f"{names.ROBOT_STATE}: expected a finite state, got {measured[:, 0].tolist()}; restart the driver"
        )
    return state
