"""Motions over libfranka: the arm's own control carries out a whole one, and is watched while it does."""

from __future__ import annotations

import time
from typing import Final

import numpy as np
from numpy.typing import NDArray

from robot_bridge.franka.command_limits import CommandLimits, StreamFault
from robot_bridge.franka.config import FrankaDirectConfig
from robot_bridge.franka.state import ArmState
from robot_bridge.franka.trajectory import Check, Trajectory, TrajectoryExecutor
from robot_bridge.kinematics import SPEED_LIMITS_RAD_S, Kinematics
from robot_bridge.libfranka.connection import FrankaConnection
from robot_bridge.libfranka.subscribers import LibfrankaStateSubscriber
from robot_bridge.motion import Motion
from robot_bridge.robot import RobotFault

_EVEN: Final = 1.25  # the speed between two points, in units of its mean: quick to start, even, and quick to stop
_LEAST: Final = 0.01  # share of the speeds, for a motion of next to nothing
_SHORTEST_S: Final = 0.1  # for what is left of a motion that was pushed up
_ARRIVED_RAD: Final = 1e-4  # of the end of a motion
_PUSHES: Final = 10  # in one motion; more, and something pushes back all the time
_DONE_M: Final = 1e-4  # what is left of a motion that was pushed back
_RETREAT_M: Final = 0.005  # above what has pushed the hand up, for the rest of the motion
_RECOIL_M: Final = 0.02  # up, at once: towards a target further away it goes faster
_START_S: Final = 1.0  # for the first state of a motion: until it has begun, the arm says nothing new
_POLL_S: Final = 0.0005


class WaypointExecutor(TrajectoryExecutor):
    """Checks a motion whole, as a stream checks it tick by tick, then lets the arm do it.

    A motion that something pushes up is ended a little higher, and what is left of it is done at that height; one that
    is pushed sideways is stopped. However a motion ends, the arm is stopped and let go of.
    """

    def __init__(
        self,
        config: FrankaDirectConfig,
        kinematics: Kinematics,
        states: LibfrankaStateSubscriber,
        link: FrankaConnection,
        check: Check,
    ) -> None:
        """Take what leads to the arm; nothing moves."""
        super().__init__(config, kinematics, states, check)
        self._link, self._clock, self._retreat_m = link, states, _RETREAT_M
        self._door = CommandLimits(config.motion, config.limits, kinematics)

    def move(self, state: ArmState, delta_m: NDArray[np.float64] | NDArray[np.float32]) -> None:
        """Move the hand straight by `delta_m`; see `TrajectoryExecutor.move`."""
        trip = self._straight(state, delta_m)
        for _ in range(_PUSHES):
            if self._travel(state, trip) or trip.way is None:
                return
            state = self._states.newer(time.monotonic(), self._config.motion.max_state_age_s)
            left_m = self._kinematics.hand(trip.way.path_rad[-1]) - state.hand_m
            if np.linalg.norm(left_m) < _DONE_M:
                return
            trip = self._straight(state, left_m, shortest_s=_SHORTEST_S)
        raise RobotFault("expected a motion that ends, got one that something pushes back all the time")

    def go(self, state: ArmState, joints_rad: NDArray[np.float64]) -> None:
        """Move the joints to `joints_rad` (7,); see `TrajectoryExecutor.go`."""
        self._travel(state, self._through_joints(state, joints_rad))

    def _travel(self, state: ArmState, trip: Trajectory) -> bool:
        """Carry out a motion, and return whether it has come to its end."""
        tick_s = self._config.motion.tick_s
        n = int(np.ceil(trip.duration_s / tick_s))
        self._door.begin(state, trip.low_m, trip.high_m)
        joints = np.stack([state.desired_rad, *(self._door.admit(trip.target(i / n)) for i in range(1, n + 1))])
        knots = np.stack([joints[-1]]) if trip.way is None else trip.way.path_rad[1:]
        changes = np.abs(np.diff(np.vstack([joints[:1], knots]), axis=0))
        speeds = _EVEN * changes / (trip.duration_s / len(knots))
        shares = (speeds / (self._config.motion.speed_fraction * SPEED_LIMITS_RAD_S)).max(axis=1).clip(_LEAST, 1.0)
        state = self._states.newer(time.monotonic(), self._config.motion.max_state_age_s)  # planning takes its time
        self._check(state)
        self._door.check_tracking(joints[0], state)
        for knot, share in zip(knots, shares, strict=True):
            try:
                self._link.begin(knot, share)
                is_pushed = self._watch(trip)
            finally:
                self._link.stop()
            state = self._settle()
            if is_pushed or np.abs(state.desired_rad - knot).max() > _ARRIVED_RAD:
                return False
        return True

    def _watch(self, trip: Trajectory) -> bool:
        """Look at the arm with every tick of its own clock until the motion ends; return whether it is pushed back."""
        motion = self._config.motion
        self._states.newer(time.monotonic(), _START_S)
        looked_s, due_s, is_pushed = time.monotonic(), self._clock.clock_s(), False
        end_s = due_s + 3 * trip.duration_s + _START_S
        while self._link.is_moving():
            state = self._states.fresh()
            now_s = time.monotonic()
            if now_s - looked_s > motion.stall_s:
                raise StreamFault(
                    f"nobody looked at the arm for {now_s - looked_s:.2f} s, more than {motion.stall_s:g} s; it is "
                    "stopped"
                )
            if self._clock.clock_s() > end_s:
                raise RobotFault(f"expected a motion of {trip.duration_s:.1f} s to end, got none; look at the arm")
            looked_s = now_s
            self._check(state)
            self._door.check_tracking(state.desired_rad, state)
            is_due = self._clock.clock_s() >= due_s or state.force_n[2] > motion.contact_limit_n
            if trip.way is not None and not is_pushed and is_due:
                due_s += motion.tick_s
                is_pushed = self._feel(trip.way, state)
            time.sleep(_POLL_S)
        return is_pushed

    def _feel(self, way: Motion, state: ArmState) -> bool:
        """Give way to what pushes the hand, and return whether something does."""
        path = way.path_rad
        way.feel(state.force_n, state.desired_rad, state.hand_m)
        if way.path_rad is path:
            return False
        if state.force_n[2] > self._config.motion.contact_limit_n:
            above = self._kinematics.solve(state.desired_rad, state.hand_m + np.array([0.0, 0.0, _RECOIL_M]))
            self._link.retreat(above)
        else:
            self._link.stop()
        return True

    def _settle(self) -> ArmState:
        """Wait until the arm rests, and return its state."""
        motion = self._config.motion
        deadline_s = time.monotonic() + motion.rest_timeout_s
        while True:
            state = self._states.newer(time.monotonic(), motion.max_state_age_s)
            self._check(state)
            if self._is_at_rest(state):
                return state
            if time.monotonic() > deadline_s:
                raise self._restless(state)
