"""Joint commands over ROS: a topic that the driver's position controller follows."""

from __future__ import annotations

import time

import numpy as np
import rospy
from numpy.typing import NDArray
from std_msgs.msg import Float64

from configs.interruption import sleep
from robot_bridge.franka.command_limits import CommandLimits, StreamFault
from robot_bridge.franka.config import FrankaConfig, MotionConfig
from robot_bridge.franka.state import ArmState, StateSource
from robot_bridge.franka.trajectory import Check, Trajectory, TrajectoryExecutor
from robot_bridge.kinematics import Kinematics
from robot_bridge.robot import RobotFault
from robot_bridge.ros import names
from robot_bridge.ros.messages import Types
from robot_bridge.safety import MotionLimits


class StreamingExecutor(TrajectoryExecutor):
    """Streams joint positions; the driver holds the last of them."""

    def __init__(
        self,
        config: FrankaConfig,
        kinematics: Kinematics,
        states: StateSource,
        stream: JointCommandPublisher,
        check: Check,
    ) -> None:
        """Take what leads to the arm; nothing moves."""
        super().__init__(config, kinematics, states, check)
        self._stream = stream

    def move(self, state: ArmState, delta_m: NDArray[np.float64] | NDArray[np.float32]) -> None:
        """Move the hand straight by `delta_m`; see `TrajectoryExecutor.move`."""
        self._follow(state, self._straight(state, delta_m))

    def go(self, state: ArmState, joints_rad: NDArray[np.float64]) -> None:
        """Move the joints to `joints_rad` (7,); see `TrajectoryExecutor.go`."""
        self._follow(state, self._through_joints(state, joints_rad))

    def _follow(self, state: ArmState, trip: Trajectory) -> None:
        """Stream until the target's end is reached and the arm rests; every tick looks at the state first."""
        self._stream.begin(state, trip.low_m, trip.high_m)
        n = int(np.ceil(trip.duration_s / self._config.motion.tick_s))
        tick = 0
        state = self._states.fresh()
        while tick < n or not np.array_equal(self._stream.last_rad, trip.target(1.0)):
            if tick > 2 * n + 100:  # only a path that is changed again and again has no end
                raise RobotFault("expected a motion that ends, got one that something pushes back all the time")
            tick += 1
            self._check(state)
            self._stream.send(self._stream.bounded(trip.target(min(1.0, tick / n))), state)
            state = self._states.fresh()
            if trip.way is not None:
                trip.way.feel(state.force_n, self._stream.last_rad, state.hand_m)
        self._settle(state)

    def _settle(self, state: ArmState) -> None:
        """Go on commanding the last target until the arm rests."""
        motion = self._config.motion
        for _ in range(round(motion.rest_timeout_s / motion.tick_s)):
            self._check(state)
            if self._is_at_rest(state):
                return
            self._stream.send(self._stream.last_rad, state)
            state = self._states.fresh()
        raise self._restless(state)


_COMMAND_TIMEOUT_S = 0.2  # without a command for so long the driver holds; its default, said again at every start
_QUEUE = 5  # commands that may wait for the wire: one that ROS drops makes the step to the next one twice as large


class JointCommandPublisher(CommandLimits):
    """Publishes joint positions, one bounded step after the other; the only publisher."""

    def __init__(self, config: MotionConfig, limits: MotionLimits, kinematics: Kinematics, types: Types) -> None:
        """Advertise; nothing is commanded yet."""
        super().__init__(config, limits, kinematics)
        self._command = types["franka_core_msgs/JointCommand"]
        self._publisher = rospy.Publisher(names.JOINT_COMMANDS, self._command, queue_size=_QUEUE, tcp_nodelay=True)
        self._timeout = rospy.Publisher(names.COMMAND_TIMEOUT, Float64, queue_size=1, latch=True)
        self._timeout.publish(Float64(_COMMAND_TIMEOUT_S))

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
            sleep(self._config.tick_s)

    def begin(self, state: ArmState, low_m: NDArray[np.float64], high_m: NDArray[np.float64]) -> None:
        """Start a stream from where the driver holds the arm; see `CommandLimits.begin`."""
        super().begin(state, low_m, high_m)
        self._due_s = time.monotonic()

    def send(self, joints_rad: NDArray[np.float64], state: ArmState) -> None:
        """Wait for the next tick and command joints (7,), no further from the last than the speed limit allows.

        Raises:
            StreamFault: The command is not finite, leaves a range or the box, is too far from the last one or from
                what is measured; or the stream was interrupted. Nothing was sent.
        """
        self.check(joints_rad)
        self.check_tracking(joints_rad, state)
        self._pace()
        self._publish(joints_rad)
        self._last = joints_rad.copy()

    def close(self) -> None:
        """Stop publishing; the driver goes on holding the last target."""
        self._publisher.unregister()
        self._timeout.unregister()

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
