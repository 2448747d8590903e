"""Control of the Franka hand: open or closed, commanded on changes only, and checked by its width."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Protocol

from robot_bridge.franka.config import GripperConfig
from robot_bridge.robot import RobotFault

HOMING = 3.0  # timeout of homing, in units of `gripper.timeout_s`; ours

_LOG = logging.getLogger(__name__)
_OPEN_FRACTION = 0.85  # of the stroke: a hand that opens less is blocked; ours


class BlockedFault(RobotFault):
    """The fingers do not open: they are blocked at the present pose of the hand."""


class GripperDevice(Protocol):
    """The gripper's driver. Each call blocks until the fingers rest, or until a timeout."""

    name: str

    def width_m(self) -> float:
        """Return the measured width between the fingers.

        Raises:
            RobotFault: No recent state of the hand.
        """
        ...

    def home(self) -> None:
        """Home the hand, which calibrates its width.

        Raises:
            RobotFault: Homing failed.
        """
        ...

    def grasp(self) -> bool:
        """Close; return whether the device reports a held object.

        Raises:
            RobotFault: The device failed, or did not answer in time.
        """
        ...

    def open(self) -> None:
        """Open to the configured width.

        Raises:
            RobotFault: The device failed, or did not answer in time.
        """
        ...

    def stop(self) -> None:
        """Stop the fingers.

        Raises:
            RobotFault: The device failed, or did not answer in time.
        """
        ...


class Gripper:
    """Opens and closes the hand. Its state is unknown until the first command."""

    def __init__(self, config: GripperConfig, device: GripperDevice) -> None:
        """Set the device; nothing moves."""
        self._config, self._device = config, device
        self._is_closed: bool | None = None

    @property
    def opening(self) -> float:
        """The measured opening: 0 closed, 1 fully open.

        Raises:
            RobotFault: No recent state of the hand.
        """
        return min(1.0, max(0.0, self._device.width_m() / self._config.width_m))

    def home(self) -> None:
        """Home the hand, then open it.

        Raises:
            RobotFault: Homing failed, or the hand does not open.
        """
        self._is_closed = None
        self._device.home()
        self.command(closes=False)

    def command(self, *, closes: bool) -> None:
        """Open or close, unless that was the last command. Blocks until the fingers rest.

        Closing without an object is no fault; see `opening`.

        Raises:
            BlockedFault: The hand does not open.
            RobotFault: The device failed, or did not answer in time.
        """
        if closes == self._is_closed:
            return
        self._is_closed = None  # after a fault the command is sent again
        try:
            (self._close if closes else self._open)()
        except BlockedFault:
            raise
        except RobotFault:
            with suppress(RobotFault):  # the first fault is raised; a device that hangs may not stop either
                self._device.stop()
            raise
        self._is_closed = closes

    def _close(self) -> None:
        if not self._device.grasp() or self._device.width_m() < self._config.held_m:
            _LOG.info("the gripper closed without an object")

    def _open(self) -> None:
        self._device.stop()  # a grasp that still holds would keep the device busy
        self._device.open()
        if self.opening < _OPEN_FRACTION:
            raise BlockedFault(
                f"{self._device.name}: expected fingers {self._config.width_m:g} m apart, got "
                f"{self._device.width_m():.3f} m; free them"
            )
