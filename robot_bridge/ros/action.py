"""A goal of a ROS action, with an end of its own: nothing waits for a server that hangs."""

from __future__ import annotations

import threading
from typing import Any

import actionlib
import rospy

from robot_bridge.robot import RobotError, RobotFault
from robot_bridge.ros.messages import Types

_POLL_S = 1.0  # for a server to say that it has given up a goal


class ActionFault(RobotFault):
    """An action did not end in time, or its server threw."""


class Action:
    """The client of one action."""

    def __init__(self, name: str, type_: str, types: Types, timeout_s: float) -> None:
        """Meet the server.

        Args:
            name: Of the action's topics.
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
            The action's result message. A goal that failed without an error has its `success` False.

        Raises:
            ActionFault: The server threw, or has not ended in time; then it was told to stop.
        """
        done = threading.Event()

        def follow(handle: Any) -> None:
            if handle.get_comm_state() == actionlib.CommState.DONE:
                done.set()

        handle = self._client.send_goal(self._goal(**goal), transition_cb=follow)
        if not done.wait(timeout_s):
            handle.cancel()
            done.wait(_POLL_S)
            raise ActionFault(f"{self._name}: expected an end within {timeout_s:g} s, got none; look at the driver")
        if handle.get_terminal_state() != actionlib.TerminalState.SUCCEEDED:
            reason = getattr(handle.get_result(), "error", "") or handle.get_goal_status_text()
            raise ActionFault(f"{self._name}: expected a goal that succeeds, got '{reason}'; look at the driver")
        return handle.get_result()
