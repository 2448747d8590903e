"""The `Robot` protocol over libfranka, through franky."""

from __future__ import annotations

import time
from contextlib import ExitStack

from robot_bridge.franka.config import FrankaDirectConfig
from robot_bridge.franka.gripper import Gripper
from robot_bridge.franka.robot import RealFranka
from robot_bridge.franka.state import frame_error, pose_error
from robot_bridge.kinematics import Kinematics
from robot_bridge.libfranka.connection import FrankaConnection, FrankaConnectionError
from robot_bridge.libfranka.gripper import LibfrankaGripper
from robot_bridge.libfranka.joint_commands import WaypointExecutor
from robot_bridge.libfranka.subscribers import LibfrankaStateSubscriber
from robot_bridge.libfranka.video_stream import VideoReader


class FrankaDirect(RealFranka):
    """A Franka controlled by this process. Motions block until the arm rests."""

    def __init__(self, config: FrankaDirectConfig) -> None:
        """Connect, check the hand, set the thresholds of the reflex, and home the hand.

        Raises:
            RobotError: A part is missing or not ready; the message says what to do. The arm has not moved.
        """
        super().__init__(config, Kinematics(margin_rad=config.motion.joint_margin_rad, fits_fr3=True))
        with ExitStack() as opened:
            self._images = images = VideoReader(config.images, config.camera)
            opened.callback(images.close)
            self._connection = FrankaConnection(config)
            opened.callback(self._connection.close)
            self._states = states = LibfrankaStateSubscriber(self._connection, config.motion.max_state_age_s)
            self._executor = WaypointExecutor(config, self._kinematics, states, self._connection, self._check_mode)
            device = LibfrankaGripper(config.gripper, config.host, config.connect_timeout_s)
            opened.callback(device.close)
            self._gripper = Gripper(config.gripper, device)
            self._check_hand(config.connect_timeout_s)
            self._connection.set_reflex(config.reflex)
            if config.gripper.homes and self._check_mode(states.fresh()):
                self._gripper.home()
            self._opened = opened.pop_all()

    def send_recovery(self) -> None:
        """Command the arm once to leave its reflex; see `RecoverableArm`."""
        self._connection.send_recovery()

    def close(self) -> None:
        """Stop and disconnect from the arm, which holds its pose. Safe to call twice."""
        self._opened.close()

    def _check_connection(self) -> None:
        """Do nothing: a broken connection is reported by the next state."""

    def _check_hand(self, timeout_s: float) -> None:
        state = self._states.newer(time.monotonic(), timeout_s)
        if wrong := frame_error(state) or pose_error(state, self._kinematics):
            raise FrankaConnectionError(
                f"{self._connection.host}: {wrong}; set the end effector in Desk to the Franka hand"
            )
