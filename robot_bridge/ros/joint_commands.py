"""Execution of trajectories over ROS: a stream of joint positions for the driver's position controller."""

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

_COMMAND_TIMEOUT_S = 0.2  # after this time without a command the driver holds; its default, set at every start
_QUEUE = 5  # commands queued for sending: a dropped one would double the step to the next; ours


class JointCommandPublisher(CommandLimits):
    """Publishes validated joint positions at a fixed rate."""

    def __init__(self, config: MotionConfig, limits: MotionLimits, kinematics: Kinematics, types: Types) -> None:
        """Advertise the topics; nothing is commanded yet."""
        super().__init__(config, limits, kinematics)
        self._command = types["franka_core_msgs/JointCommand"]
        self._publisher = rospy.Publisher(names.JOINT_COMMANDS, self._command, queue_size=_QUEUE, tcp_nodelay=True)
        self._timeout = rospy.Publisher(names.COMMAND_TIMEOUT, Float64, queue_size=1, latch=True)
        self._timeout.publish(Float64(_COMMAND_TIMEOUT_S))

    def wait_for_driver(self, timeout_s: float) -> None:
        """Wait until the driver has subscribed to the commands.

        Raises:
            RobotFault: It has not, within the time.
        """
        deadline_s = time.monotonic() + timeout_s
        while not self._publisher.get_num_connections():
            if time.monotonic() > deadline_s:
                raise RobotFault(
                    f"{names.JOINT_COMMANDS}: expected a subscribed driver within {timeout_s:g} s, got none; start "
                    "franka_ros_interface with its motion controllers"
                )
            sleep(self._config.tick_s)

    def begin(self, state: ArmState, low_m: NDArray[np.float64], high_m: NDArray[np.float64]) -> None:
        """Start a stream at the pose that the driver holds; see `CommandLimits.begin`."""
        super().begin(state, low_m, high_m)
        self._due_s = time.monotonic()

    def send(self, joints_rad: NDArray[np.float64], state: ArmState) -> None:
        """Wait for the next tick and command joints (7,), no further from the last ones than the speed limit allows.

        Raises:
            StreamFault: The command is not finite, outside a joint range or the box, or too far from the last one or
                from the measured joints; or the stream was interrupted. Nothing was sent.
        """
        self.check(joints_rad)
        self.check_tracking(joints_rad, state)
        self._wait_for_tick()
        self._publish(joints_rad)
        self._last = joints_rad.copy()

    def close(self) -> None:
        """Stop publishing; the driver holds the last target."""
        self._publisher.unregister()
        self._timeout.unregister()

    def _wait_for_tick(self) -> None:
        """Sleep until the next tick; a late tick is not caught up."""
        time.sleep(max(0.0, self._due_s - time.monotonic()))
        now_s = time.monotonic()  # after the sleep, in which this process may have been suspended
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


class StreamingExecutor(TrajectoryExecutor):
    """Executes trajectories as a stream of joint positions; the driver holds the last one."""

    def __init__(
        self,
        config: FrankaConfig,
        kinematics: Kinematics,
        states: StateSource,
        publisher: JointCommandPublisher,
        check: Check,
    ) -> None:
        """Set the connection; nothing moves."""
        super().__init__(config, kinematics, states, check)
        self._publisher = publisher

    def move_hand(self, state: ArmState, delta_m: NDArray[np.float64] | NDArray[np.float32]) -> None:
        """Move the hand straight by `delta_m`; see `TrajectoryExecutor.move_hand`."""
        self._follow(state, self._straight(state, delta_m))

    def move_joints(self, state: ArmState, joints_rad: NDArray[np.float64]) -> None:
        """Move the joints to `joints_rad` (7,); see `TrajectoryExecutor.move_joints`."""
        self._follow(state, self._through_joints(state, joints_rad))

    def _follow(self, state: ArmState, trajectory: Trajectory) -> None:
        """Stream until the end of the trajectory is reached and the arm rests; check the state before each tick."""
        self._publisher.begin(state, trajectory.low_m, trajectory.high_m)
        n = int(np.ceil(trajectory.duration_s / self._config.motion.tick_s))
        tick = 0
        state = self._states.fresh()
        while tick < n or not np.array_equal(self._publisher.last_rad, trajectory.target(1.0)):
            if tick > 2 * n + 100:  # reached only if contact forces keep changing the path
                raise RobotFault("expected a motion that ends, got one that contact forces keep changing")
            tick += 1
            self._check(state)
            self._publisher.send(self._publisher.limit_step(trajectory.target(min(1.0, tick / n))), state)
            state = self._states.fresh()
            if trajectory.motion is not None:
                trajectory.motion.limit_by_contact(state.force_n, self._publisher.last_rad, state.hand_m)
        self._settle(state)

    def _settle(self, state: ArmState) -> None:
        """Command the last target until the arm rests."""
        motion = self._config.motion
        for _ in range(round(motion.rest_timeout_s / motion.tick_s)):
            self._check(state)
            if self._is_at_rest(state):
                return
            self._publisher.send(self._publisher.last_rad, state)
            state = self._states.fresh()
        raise self._not_at_rest(state)
