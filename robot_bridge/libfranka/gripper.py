"""The gripper over libfranka: commands of the hand, with timeouts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import franky

from configs.interruption import check
from robot_bridge.franka.config import GripperConfig
from robot_bridge.franka.gripper import HOMING
from robot_bridge.libfranka.connection import ERRORS, FrankaConnectionError, connect
from robot_bridge.robot import RobotFault

_POLL_S: Final = 0.05  # short, so that Ctrl-C takes effect


class LibfrankaGripper:
    """The Franka hand over libfranka; see `GripperDevice`."""

    name = "the gripper"

    def __init__(self, config: GripperConfig, host: str, timeout_s: float) -> None:
        """Connect to the hand.

        Raises:
            FrankaConnectionError: No hand answers.
        """
        self._config = config
        try:
            self._hand = connect(lambda: franky.Gripper(host), host, timeout_s)
        except ERRORS as error:
            raise FrankaConnectionError(
                f"{host}: expected a hand, got '{error}'; set the Franka hand up in Desk"
            ) from error

    def width_m(self) -> float:
        """Return the measured width between the fingers; see `GripperDevice.width_m`."""
        with self._faults("a width"):
            return float(self._hand.width)

    def home(self) -> None:
        """Home the hand; see `GripperDevice.home`."""
        if not self._run("homing", self._hand.homing_async(), HOMING * self._config.timeout_s):
            raise RobotFault(f"{self.name}: expected successful homing, got a failure; check the fingers")

    def grasp(self) -> bool:
        """Close; see `GripperDevice.grasp`."""
        config = self._config
        any_width = (config.width_m, config.width_m)  # inner and outer tolerance
        future = self._hand.grasp_async(0.0, config.speed_m_s, config.force_n, *any_width)
        return self._run("grasp", future, config.timeout_s)

    def open(self) -> None:
        """Open; see `GripperDevice.open`."""
        with self._faults("its largest width"):
            width_m = min(self._config.width_m, float(self._hand.max_width))
        self._run("move", self._hand.move_async(width_m, self._config.speed_m_s), self._config.timeout_s)

    def stop(self) -> None:
        """Stop; see `GripperDevice.stop`."""
        self._run("stop", self._hand.stop_async(), self._config.timeout_s)

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        self._hand = None

    def _run(self, command: str, future: Any, timeout_s: float) -> bool:
        """Wait for the end of a command, and return whether it succeeded."""
        deadline_s = time.monotonic() + timeout_s
        with self._faults(f"the end of {command}"):
            while not future.wait(_POLL_S):
                check()
                if time.monotonic() > deadline_s:
                    raise RobotFault(
                        f"{self.name}: expected the end of {command} within {timeout_s:g} s, got none; check the hand"
                    )
            return bool(future.get())

    @contextmanager
    def _faults(self, expected: str) -> Iterator[None]:
        """Convert errors of franky to a RobotFault."""
        try:
            yield
        except ERRORS as error:
            raise RobotFault(f"{self.name}: expected {expected}, got '{error}'; check the fingers") from error
