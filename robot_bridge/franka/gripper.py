"""The Franka hand: open or closed, asked only when that changes, judged by its width."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Protocol

from robot_bridge.franka.config import GripperConfig
from robot_bridge.robot import RobotFault

_LOG = logging.getLogger(__name__)
_OPEN_SHARE = 0.85  # of the stroke: a hand that opens less is stuck
HOMING = 3.0  # times as long as other motions


class BlockedFault(RobotFault):
    """The fingers do not open: something is in their way where the hand is."""


class GripperDevice(Protocol):
    """The device. Each call blocks until the fingers rest, and no longer than a timeout."""

    name: str

    def width_m(self) -> float:
        """Return the measured width between the fingers, now.

        Raises:
            RobotFault: The hand has fallen silent.
        """
        ...

    def home(self) -> None:
        """Let the hand find its width.

        Raises:
            RobotFault: It failed.
        """
        ...

    def grasp(self) -> bool:
        """Close; return whether something is held, as far as the device knows.

        Raises:
            RobotFault: The device threw or hangs.
        """
        ...

    def spread(self) -> None:
        """Open as far as they go.

        Raises:
            RobotFault: The device threw or hangs.
        """
        ...

    def halt(self) -> None:
        """Stop whatever the fingers do.

        Raises:
            RobotFault: The device threw or hangs.
        """
        ...


class Gripper:
    """Drives the fingers; the hand is taken to be in an unknown state until told to open or close."""

    def __init__(self, config: GripperConfig, fingers: GripperDevice) -> None:
        """Take the device; nothing moves."""
        self._config, self._fingers = config, fingers
        self._is_closed: bool | None = None

    @property
    def opening(self) -> float:
        """The measured opening: 0 closed, 1 as wide as the hand goes.

        Raises:
            RobotFault: The hand has fallen silent.
        """
        return min(1.0, max(0.0, self._fingers.width_m() / self._config.width_m))

    def home(self) -> None:
        """Let the hand find its width, and open.

        Raises:
            RobotFault: It failed, or the hand does not open.
        """
        self._is_closed = None
        self._fingers.home()
        self.command(closes=False)

    def command(self, *, closes: bool) -> None:
        """Open or close, unless that was the last command. Blocks until the fingers rest.

        Closing on nothing is no fault: `opening` tells.

        Raises:
            BlockedFault: The hand does not open.
            RobotFault: The device threw or hangs.
        """
        if closes == self._is_closed:
            return
        self._is_closed = None  # should it fail, it is told again
        try:
            (self._close if closes else self._open)()
        except BlockedFault:
            raise
        except RobotFault:
            with suppress(RobotFault):  # a device that hangs may not stop either; what is told is what came first
                self._fingers.halt()
            raise
        self._is_closed = closes

    def _close(self) -> None:
        if not self._fingers.grasp() or self._fingers.width_m() < self._config.held_m:
            _LOG.info("the gripper closed on nothing")

    def _open(self) -> None:
        self._fingers.halt()  # a grasp that still holds would keep the device busy
        self._fingers.spread()
        if self.opening < _OPEN_SHARE:
            raise BlockedFault(
                f"{self._fingers.name}: expected fingers {self._config.width_m:g} m apart, got "
                f"{self._fingers.width_m():.3f} m; free them"
            )
