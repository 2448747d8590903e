"""The connection to the arm through franky; errors of franky become faults with a fix."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import franky
import numpy as np
from numpy.typing import NDArray

from robot_bridge.franka.config import FrankaDirectConfig, ReflexConfig
from robot_bridge.robot import RobotError, RobotFault

ERRORS: Final = (franky.Exception, RuntimeError)  # errors of franky; its motion planner raises the second
_STOP_S: Final = 2.0  # for an arm to come to rest; a stop from full speed takes 0.2 s
_STILL_RAD_S: Final = 1e-3  # desired joint speed below which the arm's controller is at rest
_POLL_S: Final = 0.002
_JOIN_S: Final = 0.1  # for franky to report the end of a motion


class FrankaConnectionError(RobotError):
    """The arm does not answer, or refuses a setting at the start. Nothing has moved."""


class FrankaConnection:
    """The connection to one arm, for one thread. Between motions the arm is not controlled and holds its pose."""

    def __init__(self, config: FrankaDirectConfig) -> None:
        """Connect.

        Raises:
            FrankaConnectionError: No arm answers, or it uses another version of the protocol.
        """
        self.host = config.host
        realtime = franky.RealtimeConfig
        kind = realtime.Enforce if config.enforces_realtime else realtime.Ignore
        try:
            self._robot = connect(
                lambda: franky.Robot(config.host, realtime_config=kind), config.host, config.connect_timeout_s
            )
            self._robot.relative_dynamics_factor = franky.RelativeDynamicsFactor(config.motion.speed_fraction, 1.0, 1.0)
        except ERRORS as error:
            raise FrankaConnectionError(
                f"{config.host}: expected an arm, got '{_one_line(error)}'; release its brakes and enable FCI in Desk, "
                "and check robot.host"
            ) from error
        self._dynamics = (config.acceleration_fraction, config.jerk_fraction)

    def set_reflex(self, config: ReflexConfig) -> None:
        """Set the torques and forces above which the arm stops.

        Raises:
            FrankaConnectionError: The arm refuses them.
        """
        try:
            self._robot.set_collision_behavior(list(config.torques_nm), list(config.forces))
        except ERRORS as error:
            raise FrankaConnectionError(
                f"{self.host}: expected new thresholds, got '{_one_line(error)}'; restart the arm"
            ) from error

    def read(self) -> Any:
        """Return the arm's state: during a motion the latest received one, else the next one.

        Raises:
            RobotFault: No state was received.
        """
        with self._faults("a state"):
            return self._robot.state

    def begin(self, joints_rad: NDArray[np.float64], fraction: float) -> None:
        """Start a motion of an arm at rest, executed by franky, and return at once.

        Args:
            joints_rad: (7,) target, at rest. Motions through intermediate points at speed are not used: franky leaves
                the path when the speed reported by the arm lags.
            fraction: Of the speed limit.

        Raises:
            RobotFault: The arm refuses.
        """
        dynamics = franky.RelativeDynamicsFactor(fraction, *self._dynamics)
        with self._faults("an arm that can move"):
            deadline_s = time.monotonic() + _STOP_S
            while np.abs(self._robot.state.dq_d).max() > _STILL_RAD_S and time.monotonic() < deadline_s:
                time.sleep(_POLL_S)
            self._robot.move(franky.JointMotion(joints_rad.tolist(), relative_dynamics_factor=dynamics), True)

    def retreat(self, joints_rad: NDArray[np.float64]) -> None:
        """Replace the running motion, with full braking, by one to nearby joints (7,); return at once.

        Raises:
            RobotFault: The arm has stopped.
        """
        with self._faults("an arm that retreats"):
            self._robot.move(franky.JointMotion(joints_rad.tolist()), asynchronous=True)

    def is_moving(self) -> bool:
        """Return whether a motion is running.

        Raises:
            RobotFault: The arm aborted the motion.
        """
        if self._robot.is_in_control:
            return True
        with self._faults("a motion that reaches its target"):
            self._robot.join_motion(_JOIN_S)
        return False

    def stop(self) -> None:
        """Brake the arm to rest and release control; do nothing if no motion is running."""
        with suppress(*ERRORS):  # the error that ended the motion is raised where the motion was started
            if self._robot.is_in_control:
                self._robot.move(franky.JointStopMotion(), asynchronous=True)
            deadline_s = time.monotonic() + _STOP_S
            while self._robot.is_in_control:
                if time.monotonic() > deadline_s:
                    self._robot.stop()
                time.sleep(_POLL_S)
            self._robot.join_motion(_JOIN_S)

    def send_recovery(self) -> None:
        """Command the arm to leave its reflex.

        Raises:
            RobotFault: It refuses.
        """
        with suppress(*ERRORS):
            self._robot.join_motion(_JOIN_S)
        with self._faults("an arm that recovers"):
            self._robot.recover_from_errors()  # its return value may be outdated; read the robot mode instead

    def close(self) -> None:
        """Stop the arm and close the connection; an arm accepts only one. Safe to call twice."""
        if self._robot is not None:
            self.stop()
            self._robot = None

    @contextmanager
    def _faults(self, expected: str) -> Iterator[None]:
        """Convert errors of franky to a RobotFault."""
        try:
            yield
        except ERRORS as error:
            raise RobotFault(f"{self.host}: expected {expected}, got '{_one_line(error)}'; check the arm") from error


def connect(make: Callable[[], Any], host: str, timeout_s: float) -> Any:
    """Return the result of `make`; without the timeout libfranka would wait for an arm in use indefinitely.

    Raises:
        FrankaConnectionError: No connection in time.
    """
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put(make())
        except ERRORS as error:
            results.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        result = results.get(timeout=timeout_s)
    except queue.Empty as error:
        raise FrankaConnectionError(
            f"{host}: expected a connection within {timeout_s:g} s, got none; close other connections to the arm"
        ) from error
    if isinstance(result, ERRORS):
        raise result
    return result


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
