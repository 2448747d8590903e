"""Subscribers to the camera and the arm over ROS, which return recent images and states only."""

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

_BUFFER_BYTES = 2**24  # more than one image: with a smaller buffer rospy lags behind
_CHANNELS = {"rgb8": slice(None), "bgr8": slice(None, None, -1)}


class RosImageSubscriber:
    """The latest image of one topic."""

    def __init__(self, config: RosImageConfig, camera: Camera) -> None:
        """Subscribe."""
        self._topic, self._camera = config.topic, camera
        self._buffer = ImageBuffer(config.topic, config, camera)
        self._subscriber = rospy.Subscriber(
            config.topic, Image, self._receive, queue_size=1, buff_size=_BUFFER_BYTES, tcp_nodelay=True
        )

    def newer(self, than_s: float) -> tuple[NDArray[np.uint8], float]:
        """Wait for an image taken after a monotonic time; see `ImageBuffer.newer`."""
        return self._buffer.newer(than_s)

    def close(self) -> None:
        """Unsubscribe."""
        self._subscriber.unregister()

    def _receive(self, message: Any) -> None:
        self._buffer.put(self._content(message), message.header.stamp.to_sec())

    def _content(self, message: Any) -> Content:
        camera, size = self._camera, (message.height, message.width)
        if size != (camera.height_px, camera.width_px) or message.encoding not in _CHANNELS:
            return CameraFault(
                f"{self._topic}: expected {camera.height_px}x{camera.width_px} rgb8 or bgr8, got "
                f"{size[0]}x{size[1]} {message.encoding}; set the camera and robot.camera to the same size"
            )
        if len(message.data) != size[0] * message.step or message.step < 3 * size[1]:
            return f"an incomplete image of {len(message.data)} bytes"
        rows = np.frombuffer(message.data, np.uint8).reshape(size[0], message.step)
        image = rows[:, : 3 * size[1]].reshape(*size, 3)
        return np.ascontiguousarray(image[..., _CHANNELS[message.encoding]])


class RosStateSubscriber:
    """The latest state of the arm, combined from three topics; see `StateSource`."""

    def __init__(self, types: Types, max_age_s: float) -> None:
        """Subscribe; states older than `max_age_s` are never returned."""
        self._max_age_s = max_age_s
        self._latest: dict[str, tuple[float, Any]] = {}  # topic: monotonic arrival time, message
        self._arrival = threading.Condition()
        topics = {
            names.ROBOT_STATE: types["franka_core_msgs/RobotState"],
            names.TIP_STATE: types["franka_core_msgs/EndPointState"],
            names.JOINT_STATES: JointState,
        }
        self._topics = tuple(topics)
        self._subscribers = [
            rospy.Subscriber(topic, type_, self._receive, topic, queue_size=1, tcp_nodelay=True)
            for topic, type_ in topics.items()
        ]

    def fresh(self) -> ArmState:
        """Return the latest state.

        Raises:
            StaleState: It is older than allowed, or not finite.
        """
        with self._arrival:
            parts = {topic: self._latest.get(topic) for topic in self._topics}
        now_s = time.monotonic()
        for topic, part in parts.items():
            if part is None or now_s - part[0] > self._max_age_s:
                age = "none" if part is None else f"one of {now_s - part[0]:.2f} s"
                raise StaleState(
                    f"{topic}: expected a state of the last {self._max_age_s:g} s, got {age}; check the driver"
                )
        return _combine(*(part for part in parts.values() if part is not None))

    def newer(self, than_s: float, timeout_s: float) -> ArmState:
        """Wait for a state of which every part arrived after a monotonic time, and return it.

        Raises:
            StaleState: None arrived in time.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._arrival:
            while not all(self._arrived_s(topic) > than_s for topic in self._topics):
                if not wait_for(self._arrival.wait, deadline_s - time.monotonic()):
                    break
        return self.fresh()

    def close(self) -> None:
        """Unsubscribe."""
        for subscriber in self._subscribers:
            subscriber.unregister()

    def _arrived_s(self, topic: str) -> float:
        return self._latest[topic][0] if topic in self._latest else -np.inf

    def _receive(self, message: Any, topic: str) -> None:
        with self._arrival:
            self._latest[topic] = (time.monotonic(), message)
            self._arrival.notify_all()


def _combine(robot: tuple[float, Any], tip: tuple[float, Any], joints: tuple[float, Any]) -> ArmState:
    by_name = dict(zip(joints[1].name, zip(joints[1].position, joints[1].velocity, strict=True), strict=True))
    if not by_name.keys() >= set(names.JOINTS):
        raise StaleState(
            f"{names.JOINT_STATES}: expected {', '.join(names.JOINTS)}, got {', '.join(by_name)}; check the driver"
        )
    measured = np.array([by_name[name] for name in names.JOINTS])
    pose = np.array(tip[1].O_T_EE).reshape(4, 4).T  # column-major
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
