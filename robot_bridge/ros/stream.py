"""The stream of joint commands: the one door to the arm, and the last check of everything that passes it."""

from __future__ import annotations

import time

import numpy as np
import rospy
from numpy.typing import NDArray
from std_msgs.msg import Float64

from robot_bridge.kinematics import N_JOINTS, SPEED_LIMITS_RAD_S, Kinematics
from robot_bridge.robot import RobotFault
from robot_bridge.ros import names
from robot_bridge.ros.configuration import MotionConfig
from robot_bridge.ros.messages import Types
from robot_bridge.ros.state import ArmState
from robot_bridge.safety import Limits

_COMMAND_TIMEOUT_S = 0.2  # without a command for so long the driver holds; its default, said again at every start
_QUEUE = 5  # commands that may wait for the wire: one that ROS drops makes the step to the next one twice as large
_ROUNDING = 1 + 1e-6
_SLACK_M = 0.001  # by which a straight way may bend


class StreamFault(RobotFault):
    """A command that may not be sent, or a stream that was interrupted. The arm holds its last target."""


class JointStream:
    """Publishes joint positions, one bounded step after the other."""

    def __init__(self, config: MotionConfig, limits: Limits, kinematics: Kinematics, types: Types) -> None:
        """Advertise; nothing is commanded yet."""
        self._config, self._kinematics = config, kinematics
        self._low_m = np.array(limits.workspace_low_m) - config.workspace_margin_m
        self._high_m = np.array(limits.workspace_high_m) + config.workspace_margin_m
        self._bound_rad = config.speed_share * SPEED_LIMITS_RAD_S * config.tick_s
        self._command = types["franka_core_msgs/JointCommand"]
        self._publisher = rospy.Publisher(names.JOINT_COMMANDS, self._command, queue_size=_QUEUE, tcp_nodelay=True)
        self._timeout = rospy.Publisher(names.COMMAND_TIMEOUT, Float64, queue_size=1, latch=True)
        self._timeout.publish(Float64(_COMMAND_TIMEOUT_S))
        self._last: NDArray[np.float64] | None = None

    @property
    def last_rad(self) -> NDArray[np.float64]:
        """The joints (7,) that were commanded last."""
        assert self._last is not None  # noqa: S101 - asked after `begin` only
        return self._last

    def wait_for_driver(self, timeout_s: float) -> None:
        """Wait until the driver listens.

        Raises:
            RobotFault: It does not.
        """
        deadline_s = time.monotonic() + timeout_s
        while not self._publisher.get_num_connections():
            if time.monotonic() > deadline_s:
                raise RobotFault(
                    f"{names.JOINT_COMMANDS}: expected a driver that listens within {timeout_s:g} s, got none; start "
                    "franka_ros_interface with its motion controllers"
                )
            time.sleep(self._config.tick_s)

    def begin(self, state: ArmState, low_m: NDArray[np.float64], high_m: NDArray[np.float64]) -> None:
        """Start a stream from where the driver holds the arm.

        Args:
            state: The arm now, at rest.
            low_m: (3,) lower corner of the box that the hand may pass on this way, beside the workspace.
            high_m: (3,) its upper corner.

        Raises:
            StreamFault: The driver holds another pose than is measured.
        """
        self._check_tracking(state.desired_rad, state)
        start = self._kinematics.hand(state.desired_rad)  # which may be outside, and come back
        self._passed_low_m = np.minimum.reduce([self._low_m, low_m, start - _SLACK_M])
        self._passed_high_m = np.maximum.reduce([self._high_m, high_m, start + _SLACK_M])
        self._last = state.desired_rad.copy()
        self._due_s = time.monotonic()

    def send(self, joints_rad: NDArray[np.float64], state: ArmState) -> None:
        """Wait for the next tick and command joints (7,), no further from the last than the speed limit allows.

        Raises:
            StreamFault: The command is not finite, leaves a range or the box, is too far from the last one or from
                what is measured; or the stream was interrupted. Nothing was sent.
        """
        self._check(joints_rad)
        self._check_tracking(joints_rad, state)
        self._pace()
        self._publish(joints_rad)
        self._last = joints_rad.copy()

    def bounded(self, joints_rad: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the joints (7,) on the straight way to `joints_rad` that the next tick may command."""
        change = joints_rad - self.last_rad
        excess = float(np.max(np.abs(change) / self._bound_rad, initial=1.0))
        return joints_rad if excess <= 1.0 else self.last_rad + change / excess

    def close(self) -> None:
        """Stop publishing; the driver goes on holding the last target."""
        self._publisher.unregister()
        self._timeout.unregister()

    def _check(self, joints_rad: NDArray[np.float64]) -> None:
        if joints_rad.shape != (N_JOINTS,) or not np.isfinite(joints_rad).all():
            raise StreamFault(f"expected {N_JOINTS} finite joints, got {joints_rad.tolist()}; nothing was sent")
        kinematics = self._kinematics
        beyond = (joints_rad < kinematics.low_rad - 1e-9) | (joints_rad > kinematics.high_rad + 1e-9)
        inward = np.abs(joints_rad - np.clip(joints_rad, kinematics.low_rad, kinematics.high_rad)) < np.abs(
            self.last_rad - np.clip(self.last_rad, kinematics.low_rad, kinematics.high_rad)
        )
        if (beyond & ~inward).any():
            raise StreamFault(
                f"expected joints {self._config.joint_margin_rad:g} rad inside their ranges, got "
                f"{joints_rad.round(4).tolist()}"
            )
        change = joints_rad - self.last_rad
        if (np.abs(change) > self._bound_rad * _ROUNDING).any():
            raise StreamFault(
                f"expected joints within {self._bound_rad.round(4).tolist()} rad of the last, got "
                f"{change.round(4).tolist()}"
            )
        hand, low, high = kinematics.hand(joints_rad), self._passed_low_m, self._passed_high_m
        if (hand < low).any() or (hand > high).any():
            raise StreamFault(
                f"expected a hand between {low.tolist()} and {high.tolist()} m, got {hand.round(4).tolist()}"
            )

    def _check_tracking(self, joints_rad: NDArray[np.float64], state: ArmState) -> None:
        off = float(np.abs(joints_rad - state.joints_rad).max())
        if not off <= self._config.tracking_limit_rad:
            raise StreamFault(
                f"expected an arm within {self._config.tracking_limit_rad:g} rad of what is commanded, got {off:.3f}; "
                "look at what holds it"
            )

    def _pace(self) -> None:
        """Sleep until the next tick; a tick that is late is not made up for."""
        time.sleep(max(0.0, self._due_s - time.monotonic()))
        now_s = time.monotonic()  # after the sleep, in which this process may have been stopped
        if now_s - self._due_s > self._config.stall_s:
            raise StreamFault(
                f"the stream of commands was interrupted for {now_s - self._due_s:.2f} s, more than "
                f"{self._config.stall_s:g} s; the driver holds the arm"
            )
        self._due_s = now_s + self._config.tick_s

    def _publish(self, joints_rad: NDArray[np.float64]) -> None:
        message = self._command(mode=self._command.POSITION_MODE, names=names.JOINTS, position=joints_rad.tolist())
        message.header.stamp = rospy.Time.now()
        self._publisher.publish(message)
