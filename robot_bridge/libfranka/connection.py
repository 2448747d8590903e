"""The connection to the arm: the calls of franky, each of whose errors becomes a fault that says what to do."""

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

ERRORS: Final = (franky.Exception, RuntimeError)  # of franky; the second is what its planner of motions raises
_STOP_S: Final = 2.0  # for an arm to come to rest; a stop from full speed takes 0.2 s
_STILL_RAD_S: Final = 1e-3  # slower than this the arm's own controller wants it to rest
_POLL_S: Final = 0.002
_JOIN_S: Final = 0.1  # for a motion that has ended to be told of, with what ended it


class FrankaConnectionError(RobotError):
    """The arm cannot be reached, or refuses what it is told at the start. Nothing has moved."""


class FrankaConnection:
    """One arm. One thread calls; between motions nobody is in control of it, and it holds."""

    def __init__(self, config: FrankaDirectConfig) -> None:
        """Connect.

        Raises:
            LinkError: There is no arm, or it speaks another version of the protocol.
        """
        self.host = config.host
        realtime = franky.RealtimeConfig
        kind = realtime.Enforce if config.enforces_realtime else realtime.Ignore
        try:
            self._robot = connected(
                lambda: franky.Robot(config.host, realtime_config=kind), config.host, config.connect_timeout_s
            )
            self._robot.relative_dynamics_factor = franky.RelativeDynamicsFactor(config.motion.speed_fraction, 1.0, 1.0)
        except ERRORS as error:
            raise FrankaConnectionError(
                f"{config.host}: expected an arm, got '{_line(error)}'; open its brakes and FCI in Desk, and look at "
                "robot.host"
            ) from error
        self._calm = (config.acceleration_fraction, config.jerk_fraction)

    def set_reflex(self, config: ReflexConfig) -> None:
        """Tell the arm from which torque and force on it must stop.

        Raises:
            LinkError: It refuses.
        """
        try:
            self._robot.set_collision_behavior(list(config.torques_nm), list(config.forces))
        except ERRORS as error:
            raise FrankaConnectionError(
                f"{self.host}: expected new thresholds, got '{_line(error)}'; restart the arm"
            ) from error

    def read(self) -> Any:
        """Return the state of now; while a motion runs the latest that has come, else the next one.

        Raises:
            RobotFault: The arm is silent.
        """
        with self._told("a state"):
            return self._robot.state

    def begin(self, joints_rad: NDArray[np.float64], share: float) -> None:
        """Begin a motion of an arm at rest, and return at once. The arm's own control carries it out by itself.

        Args:
            joints_rad: (7,) to come to, and to rest at. Passing through points at speed is not asked of franky: it
                takes detours, where the speed that the arm reports is behind.
            share: Of the speed that may be commanded.

        Raises:
            RobotFault: The arm refuses.
        """
        dynamics = franky.RelativeDynamicsFactor(share, *self._calm)
        with self._told("an arm that can be moved"):
            deadline_s = time.monotonic() + _STOP_S
            while np.abs(self._robot.state.dq_d).max() > _STILL_RAD_S and time.monotonic() < deadline_s:
                time.sleep(_POLL_S)
            self._robot.move(franky.JointMotion(joints_rad.tolist(), relative_dynamics_factor=dynamics), True)

    def retreat(self, joints_rad: NDArray[np.float64]) -> None:
        """Brake the motion that runs as hard as the arm may, and go to joints (7,) nearby; return at once.

        Raises:
            RobotFault: The arm has stopped itself.
        """
        with self._told("an arm that retreats"):
            self._robot.move(franky.JointMotion(joints_rad.tolist()), asynchronous=True)

    def is_moving(self) -> bool:
        """Tell whether a motion has not ended yet.

        Raises:
            RobotFault: It was ended by the arm.
        """
        if self._robot.is_in_control:
            return True
        with self._told("a motion that ends where it shall"):
            self._robot.join_motion(_JOIN_S)
        return False

    def stop(self) -> None:
        """Bring the arm to rest by its own braking and let go of it; do nothing where no motion runs."""
        with suppress(*ERRORS):  # what has ended the motion is told by whoever began it
            if self._robot.is_in_control:
                self._robot.move(franky.JointStopMotion(), asynchronous=True)
            deadline_s = time.monotonic() + _STOP_S
            while self._robot.is_in_control:
                if time.monotonic() > deadline_s:
                    self._robot.stop()
                time.sleep(_POLL_S)
            self._robot.join_motion(_JOIN_S)

    def free(self) -> None:
        """Ask the arm to leave its reflex.

        Raises:
            RobotFault: It refuses.
        """
        with suppress(*ERRORS):
            self._robot.join_motion(_JOIN_S)
        with self._told("an arm that recovers"):
            self._robot.recover_from_errors()  # what it returns may be of the state before; the mode tells

    def close(self) -> None:
        """Stop the arm, and end the connection, of which an arm has one only. Safe to call twice."""
        if self._robot is not None:
            self.stop()
            self._robot = None

    @contextmanager
    def _told(self, expected: str) -> Iterator[None]:
        try:
            yield
        except ERRORS as error:
            raise RobotFault(f"{self.host}: expected {expected}, got '{_line(error)}'; look at the arm") from error


def connected(connect: Callable[[], Any], host: str, timeout_s: float) -> Any:
    """Return what `connect` makes; libfranka itself would wait for ever for an arm that others are connected to.

    Raises:
        LinkError: It does not come in time.
    """
    made: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def make() -> None:
        try:
            made.put(connect())
        except ERRORS as error:
            made.put(error)

    threading.Thread(target=make, daemon=True).start()
    try:
        what = made.get(timeout=timeout_s)
    except queue.Empty as error:
        raise FrankaConnectionError(
            f"{host}: expected an answer within {timeout_s:g} s, got none; end whatever else is connected to the arm"
        ) from error
    if isinstance(what, ERRORS):
        raise what
    return what


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
