"""Recovery from reflexes: when a real arm may move, and how often it may be recovered without an operator."""

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

IDLE: Final = 1  # robot modes of libfranka
MOVING: Final = 2
GUIDING: Final = 3
REFLEX: Final = 4
USER_STOPPED: Final = 5
RECOVERING: Final = 6

_LOG = logging.getLogger(__name__)
_HOUR_S = 3600.0
_COMMAND_TIMEOUT_S = 30.0  # for `recovery.notify_command`; ours
_POLL_S = 0.05
_REPEAT_S = 0.5  # a reflex that is still present so long after a recovery counts as another one; ours


class RecoveryState(Enum):
    """State of the recovery state machine."""

    READY = "ready"
    REFLEX = "stopped by a reflex"  # one recovery goal is due
    RECOVERING = "recovering"  # the goal was sent; no second one follows
    LAST = "recovered for the last time"  # the budget is used up: the arm may only be parked
    PARKED = "parked"  # needs an operator
    STOPPED = "stopped by the user stop"  # final


class RecoveryStateMachine:
    """Counts reflexes and decides about recoveries. All times are monotonic seconds passed by the caller."""

    def __init__(self, config: RecoveryConfig) -> None:
        """Start with a full budget."""
        self._config = config
        self.state = RecoveryState.READY
        self.due_s = 0.0  # when the recovery goal may be sent
        self._n_in_episode = 0
        self._in_hour: deque[float] = deque()

    def begin_episode(self) -> None:
        """Reset the budget of the episode if the arm is ready."""
        if self.state is RecoveryState.READY:
            self._n_in_episode = 0

    def observe_mode(self, mode: int, now_s: float) -> RecoveryState:
        """Update the state by the robot mode, and return it.

        A reflex is counted once, when it is first observed. After the last one of a budget the arm may only be parked.
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
            self.state = RecoveryState.READY  # recovered by another program
        return self.state

    def goal_sent(self) -> None:
        """Record that the one recovery goal of this reflex was sent."""
        self.state = RecoveryState.RECOVERING

    def goal_failed(self, now_s: float) -> RecoveryState:
        """Record that a reflex is present after the recovery goal has ended; it counts as another one."""
        self._count(now_s)
        return self.state

    def park(self) -> None:
        """Refuse all further motion until an operator restarts the command."""
        if self.state is not RecoveryState.STOPPED:
            self.state = RecoveryState.PARKED

    def reason(self) -> str:
        """Return why the arm may not move any more."""
        if self.state is RecoveryState.STOPPED:
            return "the user stop was pressed; release it, inspect the arm, and start this command again"
        return (
            f"{self._n_in_episode} reflexes in this episode and {len(self._in_hour)} in an hour, of at most "
            f"{self._config.per_episode} and {self._config.per_hour}; inspect the scene, and start this command again"
        )

    def _count(self, now_s: float) -> None:
        while self._in_hour and now_s - self._in_hour[0] > _HOUR_S:
            self._in_hour.popleft()
        if self._is_used_up():
            self.state = RecoveryState.PARKED
            return
        self.due_s = now_s + self._config.back_off_s * 2**self._n_in_episode
        self._n_in_episode += 1
        self._in_hour.append(now_s)
        self.state = RecoveryState.REFLEX

    def _is_used_up(self) -> bool:
        return self._n_in_episode >= self._config.per_episode or len(self._in_hour) >= self._config.per_hour


class RecoverableArm(Protocol):
    """The operations of an arm that recovery needs."""

    def mode(self) -> int:
        """Return a robot mode newer than this call; waits for at most `recovery.patience_s`.

        Raises:
            RobotFault: No state arrived.
        """
        ...

    def send_recovery(self) -> None:
        """Send one recovery goal.

        Raises:
            RobotFault: It was refused, or not answered.
        """
        ...

    def park(self) -> None:
        """Move up, then home.

        Raises:
            RobotFault: The arm stopped on the way.
        """
        ...


class ErrorRecovery:
    """Checks that one arm may move before every motion, and recovers it after a reflex."""

    def __init__(self, config: RecoveryConfig, arm: RecoverableArm) -> None:
        """Start with a full budget; the arm is not accessed yet."""
        self._config, self._arm = config, arm
        self._machine = RecoveryStateMachine(config)
        self._is_notified = False

    def begin_episode(self) -> None:
        """Reset the budget of the episode if the arm is ready."""
        self._machine.begin_episode()

    def check(self, mode: int, errors: Sequence[str]) -> bool:
        """Return True if an arm with this mode and these errors may move.

        Raises:
            RobotFault: It may not: a reflex, guiding mode, or the user stop.
        """
        state = self._machine.observe_mode(mode, time.monotonic())
        if state in {RecoveryState.PARKED, RecoveryState.STOPPED}:
            raise self._final_fault()
        if mode in {IDLE, MOVING} and not errors and state in {RecoveryState.READY, RecoveryState.LAST}:
            return True
        if mode == GUIDING:
            raise RobotFault("the arm is being guided by hand; release it, and leave the guiding mode")
        raise RobotFault(
            f"the arm stopped ({', '.join(errors) or f'mode {mode}'}); run_doctor shows its state and what to do"
        )

    def recover(self) -> None:
        """Recover the arm from a reflex, if the budget allows; park it after the last one. See `Robot.recover`.

        Raises:
            RobotFault: It needs an operator: too many reflexes, the user stop, or no state from the arm.
        """
        state = self._machine.observe_mode(self._arm.mode(), time.monotonic())
        while state is RecoveryState.REFLEX:
            sleep(self._machine.due_s - time.monotonic())
            state = self._recover_once()
        if state is RecoveryState.LAST:
            self._park()
        if state is not RecoveryState.READY:
            raise self._final_fault()

    def _recover_once(self) -> RecoveryState:
        """Send the one recovery goal of a reflex, and wait for its result."""
        if self._arm.mode() == REFLEX:
            self._machine.goal_sent()
            self._arm.send_recovery()
        ended_s = time.monotonic()
        while True:
            mode, now_s = self._arm.mode(), time.monotonic()
            state = self._machine.observe_mode(mode, now_s)
            if state is not RecoveryState.RECOVERING:
                return state
            if mode == REFLEX and now_s - ended_s > _REPEAT_S:
                return self._machine.goal_failed(now_s)
            if now_s - ended_s > self._config.timeout_s:
                raise RobotFault(f"expected a recovered arm, got mode {mode}; inspect the arm")
            sleep(_POLL_S)

    def _park(self) -> None:
        """Move the arm to its parking pose; on a fault it stays where it stopped."""
        try:
            self._arm.park()
        except RobotFault as fault:
            _LOG.warning("the arm could not be parked: %s", fault)
        self._machine.park()

    def _final_fault(self) -> RobotFault:
        """Return the fault that only an operator clears; the first time, run the notification command."""
        reason = self._machine.reason()
        if not self._is_notified and self._config.notify_command:
            self._is_notified = True
            try:
                subprocess.run(  # noqa: S603
                    [*self._config.notify_command, reason], timeout=_COMMAND_TIMEOUT_S, check=True
                )
            except (OSError, subprocess.SubprocessError) as error:
                _LOG.warning("robot.recovery.notify_command failed: %s", error)
        return RobotFault(reason)
