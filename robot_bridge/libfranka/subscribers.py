"""What the arm says of itself, never older than it may be."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any, Final

import franky
import numpy as np

from configs.interruption import sleep
from robot_bridge.franka.state import ArmState, StaleState
from robot_bridge.libfranka.connection import FrankaConnection
from robot_bridge.robot import RobotFault

_POLL_S: Final = 0.0005
_PAUSE_S: Final = 0.05  # before a silent arm is asked again
_ERRORS: Final = tuple(name for name in dir(franky.Errors) if not name.startswith("_"))


class LibfrankaStateSubscriber:
    """The latest state of the arm. The arm counts time itself: a state whose time stands still is an old one."""

    def __init__(self, link: FrankaConnection, age_s: float) -> None:
        """Take the connection; nothing older than `age_s` is ever given out."""
        self._link, self._age_s = link, age_s
        self._clock_s, self._came_s = -np.inf, -np.inf

    def clock_s(self) -> float:
        """Return the arm's own time, in seconds, of the latest state.

        Raises:
            StaleState: It stands still for longer than it may.
        """
        self._take()
        return self._clock_s

    def fresh(self) -> ArmState:
        """Return the state now; see `StateSource.fresh`."""
        return self._put_together(self._take())

    def newer(self, than_s: float, timeout_s: float) -> ArmState:
        """Wait for a state that came after a monotonic time; see `StateSource.newer`."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            with suppress(RobotFault):
                return self._next(than_s)
            if time.monotonic() > deadline_s:
                return self._next(than_s)
            sleep(_PAUSE_S)

    def _next(self, than_s: float) -> ArmState:
        """Return a state whose time has changed since this call, and came after `than_s`."""
        state = self._read()
        before_s = self._clock_s
        while self._clock_s == before_s or self._came_s <= than_s:
            if time.monotonic() - self._came_s > self._age_s:
                raise self._stale()
            time.sleep(_POLL_S)
            state = self._read()
        return self._put_together(state)

    def _take(self) -> Any:
        state = self._read()
        if time.monotonic() - self._came_s > self._age_s:
            raise self._stale()
        return state

    def _read(self) -> Any:
        """Return the arm's state, and note when its time was seen to change."""
        try:
            state = self._link.read()
        except RobotFault as fault:
            raise StaleState(str(fault)) from fault
        clock_s = float(state.time.to_sec())
        if clock_s != self._clock_s:
            self._clock_s, self._came_s = clock_s, time.monotonic()
        return state

    def _stale(self) -> StaleState:
        age_s = time.monotonic() - self._came_s
        return StaleState(
            f"{self._link.host}: expected a state of the last {self._age_s:g} s, got one of {age_s:.2f} s; look at the "
            "arm and its cable"
        )

    def _put_together(self, state: Any) -> ArmState:
        pose = np.array(state.O_T_EE.matrix)
        taken = ArmState(
            joints_rad=np.array(state.q),
            speeds_rad_s=np.array(state.dq),
            desired_rad=np.array(state.q_d),
            hand_m=pose[:3, 3],
            yaw_rad=float(np.arctan2(pose[1, 0], pose[0, 0])),
            force_n=np.array(state.O_F_ext_hat_K)[:3],
            mode=int(state.robot_mode),
            errors=tuple(name for name in _ERRORS if getattr(state.current_errors, name)),
            flange_to_tip=np.array(state.F_T_EE.matrix),
            time_s=self._came_s,
        )
        if not taken.is_finite():
            raise StaleState(
                f"{self._link.host}: expected a finite state, got {taken.joints_rad.tolist()}; restart the arm"
            )
        return taken
