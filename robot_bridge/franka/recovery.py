"""Whether a real arm may be moved, and how one that stopped itself is freed: as often as its budget allows."""

from __future__ import annotations

import logging
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import Final, Protocol

from configs.interruption import sleep
from robot_bridge.franka.config import RecoveryConfig
from robot_bridge.robot import RobotFault

IDLE: Final = 1
MOVING: Final = 2
GUIDING: Final = 3
REFLEX: Final = 4
USER_STOPPED: Final = 5
RECOVERING: Final = 6


_HOUR_S = 3600.0


class RecoveryState(Enum):
    """Where the arm stands."""

    READY = "ready"
    REFLEX = "stopped by a reflex"  # one recovery goal is due
    RECOVERING = "recovering"  # the goal was sent; no second one follows
    LAST = "recovered for the last time"  # the budget is used up: it may go to its parking place, and no further
    PARKED = "parked"  # a person must look
    STOPPED = "stopped by a person"  # for ever


class RecoveryStateMachine:
    """Counts reflexes and decides. All times are monotonic seconds that the caller brings."""

    def __init__(self, config: RecoveryConfig) -> None:
        """Begin with a full budget."""
        self._config = config
        self.state = RecoveryState.READY
        self.due_s = 0.0  # when the recovery goal may be sent
        self._of_episode = 0
        self._of_hour: deque[float] = deque()

    def begin_episode(self) -> None:
        """Give a new episode its budget, where the arm is ready for one."""
        if self.state is RecoveryState.READY:
            self._of_episode = 0

    def see(self, mode: int, now_s: float) -> RecoveryState:
        """Take the driver's robot mode, and return where the arm stands.

        A reflex is counted once, when it is first seen. After the last of a budget the arm may only be parked.
        """
        if self.state in {RecoveryState.PARKED, RecoveryState.STOPPED}:
            return self.state
        if mode == USER_STOPPED:
            self.state = RecoveryState.STOPPED
        elif self.state is RecoveryState.LAST and mode == REFLEX:
            self.state = RecoveryState.PARKED
        elif mode == REFLEX and self.state is RecoveryState.READY:
            self._count(now_s)
        elif mode in {IDLE, MOVING} and self.state is RecoveryState.RECOVERING:
            self.state = RecoveryState.LAST if self._is_used_up() else RecoveryState.READY
        elif mode in {IDLE, MOVING} and self.state is RecoveryState.REFLEX:
            self.state = RecoveryState.READY  # somebody else has freed it
        return self.state

    def sent(self) -> None:
        """Note that the one recovery goal of this reflex was sent."""
        self.state = RecoveryState.RECOVERING

    def again(self, now_s: float) -> RecoveryState:
        """Note that the goal has ended and the reflex is still there, or there again: it counts as another one."""
        self._count(now_s)
        return self.state

    def park(self) -> None:
        """Let nothing move until a person has looked."""
        if self.state is not RecoveryState.STOPPED:
            self.state = RecoveryState.PARKED

    def why(self) -> str:
        """Return, in words, why nothing moves any more."""
        if self.state is RecoveryState.STOPPED:
            return "a person has stopped the arm; release the stop, look, and start this command again"
        return (
            f"{self._of_episode} reflexes in this episode and {len(self._of_hour)} in an hour, of at most "
            f"{self._config.per_episode} and {self._config.per_hour}; look at the scene, and start this command again"
        )

    def _count(self, now_s: float) -> None:
        while self._of_hour and now_s - self._of_hour[0] > _HOUR_S:
            self._of_hour.popleft()
        if self._is_used_up():
            self.state = RecoveryState.PARKED
            return
        self.due_s = now_s + self._config.back_off_s * 2**self._of_episode
        self._of_episode += 1
        self._of_hour.append(now_s)
        self.state = RecoveryState.REFLEX

    def _is_used_up(self) -> bool:
        return self._of_episode >= self._config.per_episode or len(self._of_hour) >= self._config.per_hour


_LOG = logging.getLogger(__name__)
_ALERT_S = 30.0  # what telling somebody may take
_POLL_S = 0.05
_AGAIN_S = 0.5  # in reflex for so long after a recovery is another reflex


class RecoverableArm(Protocol):
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


class ErrorRecovery:
    """Stands before every motion of one arm, and frees it after a reflex."""

    def __init__(self, config: RecoveryConfig, arm: RecoverableArm) -> None:
        """Begin with a full budget; nothing is asked of the arm yet."""
        self._config, self._arm = config, arm
        self._recovery = RecoveryStateMachine(config)
        self._is_alerted = False

    def begin_episode(self) -> None:
        """Give a new episode its budget."""
        self._recovery.begin_episode()

    def check(self, mode: int, errors: Sequence[str]) -> bool:
        """Return True where an arm of this mode and these errors may be moved.

        Raises:
            RobotFault: It stopped itself, or a person guides or has stopped it.
        """
        state = self._recovery.see(mode, time.monotonic())
        if state in {RecoveryState.PARKED, RecoveryState.STOPPED}:
            raise self._person()
        if mode in {IDLE, MOVING} and not errors and state in {RecoveryState.READY, RecoveryState.LAST}:
            return True
        if mode == GUIDING:
            raise RobotFault("a person guides the arm by hand; let go of it, then call recover")
        raise RobotFault(f"the arm stopped itself ({', '.join(errors) or f'mode {mode}'}); call recover")

    def recover(self) -> None:
        """Free the arm from a reflex, if the budget allows; after the last one, park it. See `Robot.recover`.

        Raises:
            RobotFault: A person must look: too many reflexes, a user stop, or an arm that stays silent.
        """
        state = self._recovery.see(self._arm.mode(), time.monotonic())
        while state is RecoveryState.REFLEX:
            sleep(self._recovery.due_s - time.monotonic())
            state = self._free()
        if state is RecoveryState.LAST:
            self._park()
        if state is not RecoveryState.READY:
            raise self._person()

    def _free(self) -> RecoveryState:
        """Send the one recovery goal of a reflex, and wait for what it does."""
        if self._arm.mode() == REFLEX:
            self._recovery.sent()
            self._arm.free()
        ended_s = time.monotonic()
        while True:
            mode, now_s = self._arm.mode(), time.monotonic()
            state = self._recovery.see(mode, now_s)
            if state is not RecoveryState.RECOVERING:
                return state
            if mode == REFLEX and now_s - ended_s > _AGAIN_S:
                return self._recovery.again(now_s)
            if now_s - ended_s > self._config.timeout_s:
                raise RobotFault(f"expected an arm that is freed, got mode {mode}; look at the arm")
            sleep(_POLL_S)

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
        if not self._is_alerted and self._config.notify_command:
            self._is_alerted = True
            try:
                subprocess.run([*self._config.notify_command, reason], timeout=_ALERT_S, check=True)  # noqa: S603
            except (OSError, subprocess.SubprocessError) as error:
                _LOG.warning("nobody could be told: %s", error)
        return RobotFault(reason)
