"""States of the arm over libfranka; only recent ones are returned."""

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
_RETRY_S: Final = 0.05  # before an arm that sent no state is read again
_ERRORS: Final = tuple(name for name in dir(franky.Errors) if not name.startswith("_"))


class LibfrankaStateSubscriber:
    """The latest state of the arm; see `StateSource`. A state is new if the arm's own clock has advanced."""

    def __init__(self, connection: FrankaConnection, max_age_s: float) -> None:
        """Set the connection; states older than `max_age_s` are never returned."""
        self._connection, self._max_age_s = connection, max_age_s
        self._clock_s, self._arrived_s = -np.inf, -np.inf

    def clock_s(self) -> float:
        """Return the arm's time in seconds of the latest state.

        Raises:
            StaleState: It has not advanced for longer than allowed.
        """
        self._read_fresh()
        return self._clock_s

    def fresh(self) -> ArmState:
        """Return the latest state; see `StateSource.fresh`."""
        return self._convert(self._read_fresh())

    def newer(self, than_s: float, timeout_s: float) -> ArmState:
        """Wait for a state that arrived after a monotonic time; see `StateSource.newer`."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            with suppress(RobotFault):
                return self._next(than_s)
            if time.monotonic() > deadline_s:
                return self._next(than_s)
            sleep(_RETRY_S)

    def _next(self, than_s: float) -> ArmState:
        """Return a state whose clock has advanced since this call, and that arrived after `than_s`."""
        state = self._read()
        before_s = self._clock_s
        while self._clock_s == before_s or self._arrived_s <= than_s:
            if time.monotonic() - self._arrived_s > self._max_age_s:
                raise self._stale()
            time.sleep(_POLL_S)
            state = self._read()
        return self._convert(state)

    def _read_fresh(self) -> Any:
        state = self._read()
        if time.monotonic() - self._arrived_s > self._max_age_s:
            raise self._stale()
        return state

    def _read(self) -> Any:
        """Return the arm's state, and record when its clock advanced."""
        try:
            state = self._connection.read()
        except RobotFault as fault:
            raise StaleState(str(fault)) from fault
        clock_s = float(state.time.to_sec())
        if clock_s != self._clock_s:
            self._clock_s, self._arrived_s = clock_s, time.monotonic()
        return state

    def _stale(self) -> StaleState:
        age_s = time.monotonic() - self._arrived_s
        return StaleState(
            f"{self._connection.host}: expected a state of the last {self._max_age_s:g} s, got one of {age_s:.2f} s; "
            "check the arm and its cable"
        )

    def _convert(self, state: Any) -> ArmState:
        pose = np.array(state.O_T_EE.matrix)
        converted = ArmState(
            joints_rad=np.array(state.q),
            speeds_rad_s=np.array(state.dq),
            desired_rad=np.array(state.q_d),
            hand_m=pose[:3, 3],
            yaw_rad=float(np.arctan2(pose[1, 0], pose[0, 0])),
            force_n=np.array(state.O_F_ext_hat_K)[:3],
            mode=int(state.robot_mode),
            errors=tuple(name for name in _ERRORS if getattr(state.current_errors, name)),
            flange_to_tip=np.array(state.F_T_EE.matrix),
            time_s=self._arrived_s,
        )
        if not converted.is_finite():
            raise StaleState(
                f"{self._connection.host}: expected a finite state, got {converted.joints_rad.tolist()}; restart the "
                "arm"
            )
        return converted
