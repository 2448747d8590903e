"""The gripper over ROS: the actions of franka_gripper with timeouts, and the states of the finger joints."""

from __future__ import annotations

import threading
import time
from typing import Any

import actionlib
import rospy
from sensor_msgs.msg import JointState

from configs.interruption import wait_for
from robot_bridge.franka.config import GripperConfig
from robot_bridge.franka.gripper import HOMING
from robot_bridge.franka.state import StaleState
from robot_bridge.robot import RobotError, RobotFault
from robot_bridge.ros import names
from robot_bridge.ros.messages import Types

_CANCEL_S = 1.0  # for a server to confirm that a goal was cancelled
_MAX_AGE_S = 0.5  # of the finger states, which are published 30 times a second; ours


class ActionFault(RobotFault):
    """An action did not end in time, or failed."""


class ActionClient:
    """Client of one ROS action."""

    def __init__(self, name: str, type_: str, types: Types, timeout_s: float) -> None:
        """Connect to the server.

        Args:
            name: Name of the action's topics.
            type_: Such as "franka_gripper/Grasp".
            types: From `messages.load`.
            timeout_s: For the server to appear.

        Raises:
            RobotError: It did not.
        """
        self._name, self._goal = name, types[f"{type_}Goal"]
        self._client = actionlib.ActionClient(name, types[f"{type_}Action"])
        if not self._client.wait_for_server(rospy.Duration.from_sec(timeout_s)):
            raise RobotError(f"{name}: expected an action server within {timeout_s:g} s, got none; start the driver")

    def run(self, timeout_s: float, **goal: object) -> Any:
        """Send a goal and wait for its result.

        Returns:
            The action's result message. Its `success` is False if the goal failed without an error.

        Raises:
            ActionFault: The goal was aborted with an error, or did not end in time and was cancelled.
        """
        done = threading.Event()

        def on_transition(handle: Any) -> None:
            if handle.get_comm_state() == actionlib.CommState.DONE:
                done.set()

        handle = self._client.send_goal(self._goal(**goal), transition_cb=on_transition)
        if not wait_for(done.wait, timeout_s):
            handle.cancel()
            done.wait(_CANCEL_S)
            raise ActionFault(f"{self._name}: expected a result within {timeout_s:g} s, got none; check the driver")
        if handle.get_terminal_state() != actionlib.TerminalState.SUCCEEDED:
            reason = getattr(handle.get_result(), "error", "") or handle.get_goal_status_text()
            raise ActionFault(f"{self._name}: expected success, got '{reason}'; check the driver")
        return handle.get_result()


class RosGripper:
    """The Franka hand over ROS; see `GripperDevice`."""

    name = names.MOVE

    def __init__(self, config: GripperConfig, types: Types, timeout_s: float) -> None:
        """Connect to the gripper's action servers.

        Raises:
            RobotError: One of them is missing.
        """
        self._config = config
        self._widths: tuple[float, float] | None = None  # width in metres, monotonic arrival time
        self._arrival = threading.Condition()
        self._subscriber = rospy.Subscriber(names.FINGER_STATES, JointState, self._receive, queue_size=1)
        self._homing = ActionClient(names.HOMING, "franka_gripper/Homing", types, timeout_s)
        self._grasp = ActionClient(names.GRASP, "franka_gripper/Grasp", types, timeout_s)
        self._move = ActionClient(names.MOVE, "franka_gripper/Move", types, timeout_s)
        self._stop = ActionClient(names.STOP, "franka_gripper/Stop", types, timeout_s)
        self._epsilon = types["franka_gripper/GraspEpsilon"](inner=config.width_m, outer=config.width_m)

    def width_m(self) -> float:
        """Return the measured width between the fingers; see `GripperDevice.width_m`."""
        deadline_s = time.monotonic() + _MAX_AGE_S
        with self._arrival:
            while self._widths is None or time.monotonic() - self._widths[1] > _MAX_AGE_S:
                if not wait_for(self._arrival.wait, deadline_s - time.monotonic()):
                    raise StaleState(
                        f"{names.FINGER_STATES}: expected a state of the last {_MAX_AGE_S:g} s, got none; check the "
                        "driver"
                    )
            return self._widths[0]

    def home(self) -> None:
        """Home the hand; see `GripperDevice.home`."""
        result = self._homing.run(HOMING * self._config.timeout_s)
        if not result.success:
            raise RobotFault(f"{names.HOMING}: expected success, got '{result.error or 'failure'}'; check the gripper")

    def grasp(self) -> bool:
        """Close; see `GripperDevice.grasp`."""
        config = self._config
        goal = {"width": 0.0, "epsilon": self._epsilon, "speed": config.speed_m_s, "force": config.force_n}
        return bool(self._grasp.run(config.timeout_s, **goal).success)

    def open(self) -> None:
        """Open; see `GripperDevice.open`."""
        goal = {"width": self._config.width_m, "speed": self._config.speed_m_s}
        self._move.run(self._config.timeout_s, **goal)  # `success` is not used: it is False 1 mm short of the width

    def stop(self) -> None:
        """Stop; see `GripperDevice.stop`."""
        self._stop.run(self._config.timeout_s)

    def close(self) -> None:
        """Unsubscribe."""
        self._subscriber.unregister()

    def _receive(self, message: Any) -> None:
        with self._arrival:
            self._widths = (sum(message.position), time.monotonic())
            self._arrival.notify_all()
