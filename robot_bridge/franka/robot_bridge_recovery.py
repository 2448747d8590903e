"""Whether an arm that stopped itself may be freed without a person: a state machine without ROS and without a clock."""

from __future__ import annotations

from collections import deque
from enum import Enum

from robot_bridge.franka import modes
from robot_bridge.franka.config import RecoveryConfig

_HOUR_S = 3600.0


class Stage(Enum):
    """Where the arm stands."""

    READY = "ready"
    REFLEX = "stopped by a reflex"  # one recovery goal is due
    RECOVERING = "recovering"  # the goal was sent; no second one follows
    LAST = "recovered for the last time"  # the budget is used up: it may go to its parking place, and no further
    PARKED = "parked"  # a person must look
    STOPPED = "stopped by a person"  # for ever


class Recovery:
    """Counts reflexes and decides. All times are monotonic seconds that the caller brings."""

    def __init__(self, config: RecoveryConfig) -> None:
        """Begin with a full budget."""
        self._config = config
        self.stage = Stage.READY
        self.due_s = 0.0  # when the recovery goal may be sent
        self._of_episode = 0
        self._of_hour: deque[float] = deque()

    def begin_episode(self) -> None:
        """Give a new episode its budget, where the arm is ready for one."""
        if self.stage is Stage.READY:
            self._of_episode = 0

    def see(self, mode: int, now_s: float) -> Stage:
        """Take the driver's robot mode, and return where the arm stands.

        A reflex is counted once, when it is first seen. After the last of a budget the arm may only be parked.
        """
        if self.stage in {Stage.PARKED, Stage.STOPPED}:
            return self.stage
        if mode == modes.USER_STOPPED:
            self.stage = Stage.STOPPED
        elif self.stage is Stage.LAST and mode == modes.REFLEX:
            self.stage = Stage.PARKED
        elif mode == modes.REFLEX and self.stage is Stage.READY:
            self._count(now_s)
        elif mode in {modes.IDLE, modes.MOVING} and self.stage is Stage.RECOVERING:
            self.stage = Stage.LAST if self._is_used_up() else Stage.READY
        elif mode in {modes.IDLE, modes.MOVING} and self.stage is Stage.REFLEX:
            self.stage = Stage.READY  # somebody else has freed it
        return self.stage

    def sent(self) -> None:
        """Note that the one recovery goal of this reflex was sent."""
        self.stage = Stage.RECOVERING

    def again(self, now_s: float) -> Stage:
        """Note that the goal has ended and the reflex is still there, or there again: it counts as another one."""
        self._count(now_s)
        return self.stage

    def park(self) -> None:
        """Let nothing move until a person has looked."""
        if self.stage is not Stage.STOPPED:
            self.stage = Stage.PARKED

    def why(self) -> str:
        """Return, in words, why nothing moves any more."""
        if self.stage is Stage.STOPPED:
            return "a person has stopped the arm; release the stop, look, and start this command again"
        return (
            f"{self._of_episode} reflexes in this episode and {len(self._of_hour)} in an hour, of at most "
            f"{self._config.per_episode} and {self._config.per_hour}; look at the scene, and start this command again"
        )

    def _count(self, now_s: float) -> None:
        while self._of_hour and now_s - self._of_hour[0] > _HOUR_S:
            self._of_hour.popleft()
        if self._is_used_up():
            self.stage = Stage.PARKED
            return
        self.due_s = now_s + self._config.back_off_s * 2**self._of_episode
        self._of_episode += 1
        self._of_hour.append(now_s)
        self.stage = Stage.REFLEX

    def _is_used_up(self) -> bool:
        return self._of_episode >= self._config.per_episode or len(self._of_hour) >= self._config.per_hour
