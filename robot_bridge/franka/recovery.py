"""Whether a real arm may be moved, and how one that stopped itself is freed: as often as its budget allows."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Sequence
from typing import Protocol

from robot_bridge.franka import modes
from robot_bridge.franka.config import RecoveryConfig
from robot_bridge.franka.robot_bridge_recovery import Recovery, Stage
from robot_bridge.robot import RobotFault

_LOG = logging.getLogger(__name__)
_ALERT_S = 30.0  # what telling somebody may take
_POLL_S = 0.05
_AGAIN_S = 0.5  # in reflex for so long after a recovery is another reflex


class Arm(Protocol):
    """What can be asked of an arm that may not be moved."""

    def mode(self) -> int:
        """Return the robot mode of after this call; wait for it as long as patience lasts.

        Raises:
            RobotFault: The arm stays silent.
        """
        ...

    def free(self) -> None:
        """Send one recovery goal.

        Raises:
            RobotFault: It was refused, or not answered.
        """
        ...

    def park(self) -> None:
        """Go up and home for the last time.

        Raises:
            RobotFault: Something stopped the arm there.
        """
        ...


class Rescue:
    """Stands before every motion of one arm, and frees it after a reflex."""

    def __init__(self, config: RecoveryConfig, arm: Arm) -> None:
        """Begin with a full budget; nothing is asked of the arm yet."""
        self._config, self._arm = config, arm
        self._recovery = Recovery(config)
        self._is_alerted = False

    def begin_episode(self) -> None:
        """Give a new episode its budget."""
        self._recovery.begin_episode()

    def check(self, mode: int, errors: Sequence[str]) -> bool:
        """Return True where an arm of this mode and these errors may be moved.

        Raises:
            RobotFault: It stopped itself, or a person guides or has stopped it.
        """
        stage = self._recovery.see(mode, time.monotonic())
        if stage in {Stage.PARKED, Stage.STOPPED}:
            raise self._person()
        if mode in {modes.IDLE, modes.MOVING} and not errors and stage in {Stage.READY, Stage.LAST}:
            return True
        if mode == modes.GUIDING:
            raise RobotFault("a person guides the arm by hand; let go of it, then call recover")
        raise RobotFault(f"the arm stopped itself ({', '.join(errors) or f'mode {mode}'}); call recover")

    def recover(self) -> None:
        """Free the arm from a reflex, if the budget allows; after the last one, park it. See `Robot.recover`.

        Raises:
            RobotFault: A person must look: too many reflexes, a user stop, or an arm that stays silent.
        """
        stage = self._recovery.see(self._arm.mode(), time.monotonic())
        while stage is Stage.REFLEX:
            time.sleep(max(0.0, self._recovery.due_s - time.monotonic()))
            stage = self._free()
        if stage is Stage.LAST:
            self._park()
        if stage is not Stage.READY:
            raise self._person()

    def _free(self) -> Stage:
        """Send the one recovery goal of a reflex, and wait for what it does."""
        if self._arm.mode() == modes.REFLEX:
            self._recovery.sent()
            self._arm.free()
        ended_s = time.monotonic()
        while True:
            mode, now_s = self._arm.mode(), time.monotonic()
            stage = self._recovery.see(mode, now_s)
            if stage is not Stage.RECOVERING:
                return stage
            if mode == modes.REFLEX and now_s - ended_s > _AGAIN_S:
                return self._recovery.again(now_s)
            if now_s - ended_s > self._config.timeout_s:
                raise RobotFault(f"expected an arm that is freed, got mode {mode}; look at the arm")
            time.sleep(_POLL_S)

    def _park(self) -> None:
        """Let the arm go to its parking place; whatever stops it there leaves it where it is."""
        try:
            self._arm.park()
        except RobotFault as fault:
            _LOG.warning("the arm could not be parked: %s", fault)
        self._recovery.park()

    def _person(self) -> RobotFault:
        """Return the fault that only a person clears, after telling somebody once."""
        reason = self._recovery.why()
        if not self._is_alerted and self._config.alert:
            self._is_alerted = True
            try:
                subprocess.run([*self._config.alert, reason], timeout=_ALERT_S, check=True)  # noqa: S603
            except (OSError, subprocess.SubprocessError) as error:
                _LOG.warning("nobody could be told: %s", error)
        return RobotFault(reason)
