"""The Franka hand: open or closed, asked only when that changes, judged by its width."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from typing import Any

import rospy
from sensor_msgs.msg import JointState

from robot_bridge.robot import RobotFault
from robot_bridge.ros import names
from robot_bridge.ros.action import Action, ActionFault
from robot_bridge.ros.configuration import GripperConfig
from robot_bridge.ros.messages import Types
from robot_bridge.ros.state import StaleState

_LOG = logging.getLogger(__name__)
_AGE_S = 0.5  # of the finger states, which come 30 times a second
_OPEN_SHARE = 0.85  # of the stroke: a hand that opens less is stuck
_HOMING = 3.0  # times as long as other motions


class BlockedFault(RobotFault):
    """The fingers do not open: something is in their way where the hand is."""


class Gripper:
    """Drives the fingers; the hand is taken to be in an unknown state until told to open or close."""

    def __init__(self, config: GripperConfig, types: Types, timeout_s: float) -> None:
        """Meet the gripper's servers.

        Raises:
            RobotError: One of them is missing.
        """
        self._config = config
        self._is_closed: bool | None = None
        self._widths: tuple[float, float] | None = None  # width in metres, monotonic time
        self._news = threading.Condition()
        self._subscriber = rospy.Subscriber(names.FINGER_STATES, JointState, self._take, queue_size=1)
        self._homing = Action(names.HOMING, "franka_gripper/Homing", types, timeout_s)
        self._grasp = Action(names.GRASP, "franka_gripper/Grasp", types, timeout_s)
        self._move = Action(names.MOVE, "franka_gripper/Move", types, timeout_s)
        self._stop = Action(names.STOP, "franka_gripper/Stop", types, timeout_s)
        self._epsilon = types["franka_gripper/GraspEpsilon"](inner=config.width_m, outer=config.width_m)

    @property
    def opening(self) -> float:
        """The measured opening: 0 closed, 1 as wide as the hand goes.

        Raises:
            StaleState: The hand has fallen silent.
        """
        return min(1.0, max(0.0, self.width_m() / self._config.width_m))

    def width_m(self) -> float:
        """Return the measured width between the fingers.

        Raises:
            StaleState: The hand has fallen silent.
        """
        deadline_s = time.monotonic() + _AGE_S
        with self._news:
            while self._widths is None or time.monotonic() - self._widths[1] > _AGE_S:
                if not self._news.wait(max(0.0, deadline_s - time.monotonic())):
                    raise StaleState(f"{names.FINGER_STATES}: expected a state of the last {_AGE_S:g} s, got none")
            return self._widths[0]

    def home(self) -> None:
        """Let the hand find its width, and open.

        Raises:
            RobotFault: It failed, or the hand does not open.
        """
        self._is_closed = None
        result = self._homing.run(_HOMING * self._config.timeout_s)
        if not result.success:
            raise RobotFault(
                f"{names.HOMING}: expected success, got '{result.error or 'failure'}'; look at the gripper"
            )
        self.command(closes=False)

    def command(self, *, closes: bool) -> None:
        """Open or close, unless that was the last command. Blocks until the fingers rest.

        Closing on nothing is no fault: `opening` tells.

        Raises:
            BlockedFault: The hand does not open.
            RobotFault: The server threw or hangs.
        """
        if closes == self._is_closed:
            return
        self._is_closed = None  # should it fail, it is told again
        try:
            (self._close if closes else self._open)()
        except ActionFault:
            with suppress(ActionFault):  # a server that hangs may not stop either; what is told is what came first
                self._halt()
            raise
        self._is_closed = closes

    def close(self) -> None:
        """Stop listening."""
        self._subscriber.unregister()

    def _close(self) -> None:
        config = self._config
        goal = {"width": 0.0, "epsilon": self._epsilon, "speed": config.speed_m_s, "force": config.force_n}
        result = self._grasp.run(config.timeout_s, **goal)
        if not result.success or self.width_m() < config.held_m:
            _LOG.info("the gripper closed on nothing")

    def _open(self) -> None:
        config = self._config
        self._halt()  # a grasp that still holds would keep the server busy
        goal = {"width": config.width_m, "speed": config.speed_m_s}
        self._move.run(config.timeout_s, **goal)  # says False already where a millimetre is missing
        if self.opening < _OPEN_SHARE:
            raise BlockedFault(
                f"{names.MOVE}: expected fingers {config.width_m:g} m apart, got {self.width_m():.3f} m; free them"
            )

    def _halt(self) -> None:
        self._stop.run(self._config.timeout_s)

    def _take(self, message: Any) -> None:
        with self._news:
            self._widths = (sum(message.position), time.monotonic())
            self._news.notify_all()
