"""Execution of trajectories over libfranka: franky executes whole motions, which are monitored meanwhile."""

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

_PEAK: Final = 1.25  # peak speed between two points, in units of the mean: fast start, constant speed, fast stop; ours
_LEAST: Final = 0.01  # lowest fraction of the speed limits, for motions of almost no length; ours
_SHORTEST_S: Final = 0.1  # for the rest of a motion that contact forces interrupted; ours
_ARRIVED_RAD: Final = 1e-4  # tolerance of a target; ours
_MAX_CONTACTS: Final = 10  # interruptions of one motion by contact forces; ours
_DONE_M: Final = 1e-4  # remaining length below which an interrupted motion is done; ours
_RETREAT_M: Final = 0.005  # height kept above a contact for the rest of the motion; ours
_RECOIL_M: Final = 0.02  # immediate upward target at a contact: farther than _RETREAT_M, so that it is faster; ours
_START_S: Final = 1.0  # for the first state of a motion: the arm sends no new one before; ours
_POLL_S: Final = 0.0005


class WaypointExecutor(TrajectoryExecutor):
    """Validates a whole trajectory tick by tick, then lets franky execute it.

    If a contact force pushes the hand up, the motion ends slightly higher, and its rest is executed at that height. If
    one pushes it sideways, the motion stops. After every motion the arm is stopped and control is released.
    """

    def __init__(
        self,
        config: FrankaDirectConfig,
        kinematics: Kinematics,
        states: LibfrankaStateSubscriber,
        connection: FrankaConnection,
        check: Check,
    ) -> None:
        """Set the connection; nothing moves."""
        super().__init__(config, kinematics, states, check)
        self._connection, self._clock, self._retreat_m = connection, states, _RETREAT_M
        self._limits = CommandLimits(config.motion, config.limits, kinematics)

    def move_hand(self, state: ArmState, delta_m: NDArray[np.float64] | NDArray[np.float32]) -> None:
        """Move the hand straight by `delta_m`; see `TrajectoryExecutor.move_hand`."""
        trajectory = self._straight(state, delta_m)
        for _ in range(_MAX_CONTACTS):
            if self._execute(state, trajectory) or trajectory.motion is None:
                return
            state = self._states.newer(time.monotonic(), self._config.motion.max_state_age_s)
            left_m = self._kinematics.hand(trajectory.motion.path_rad[-1]) - state.hand_m
            if np.linalg.norm(left_m) < _DONE_M:
                return
            trajectory = self._straight(state, left_m, shortest_s=_SHORTEST_S)
        raise RobotFault(f"expected a motion that ends, got one interrupted {_MAX_CONTACTS} times by contact forces")

    def move_joints(self, state: ArmState, joints_rad: NDArray[np.float64]) -> None:
        """Move the joints to `joints_rad` (7,); see `TrajectoryExecutor.move_joints`."""
        self._execute(state, self._through_joints(state, joints_rad))

    def _execute(self, state: ArmState, trajectory: Trajectory) -> bool:
        """Execute a trajectory, and return whether its end was reached."""
        tick_s = self._config.motion.tick_s
        n = int(np.ceil(trajectory.duration_s / tick_s))
        self._limits.begin(state, trajectory.low_m, trajectory.high_m)
        accepted = (self._limits.accept(trajectory.target(i / n)) for i in range(1, n + 1))
        joints = np.stack([state.desired_rad, *accepted])
        knots = np.stack([joints[-1]]) if trajectory.motion is None else trajectory.motion.path_rad[1:]
        changes = np.abs(np.diff(np.vstack([joints[:1], knots]), axis=0))
        speeds = _PEAK * changes / (trajectory.duration_s / len(knots))
        fractions = (speeds / (self._config.motion.speed_fraction * SPEED_LIMITS_RAD_S)).max(axis=1).clip(_LEAST, 1.0)
        state = self._states.newer(time.monotonic(), self._config.motion.max_state_age_s)  # planning has taken time
        self._check(state)
        self._limits.check_tracking(joints[0], state)
        for knot, fraction in zip(knots, fractions, strict=True):
            try:
                self._connection.begin(knot, fraction)
                is_interrupted = self._monitor(trajectory)
            finally:
                self._connection.stop()
            state = self._settle()
            if is_interrupted or np.abs(state.desired_rad - knot).max() > _ARRIVED_RAD:
                return False
        return True

    def _monitor(self, trajectory: Trajectory) -> bool:
        """Check the state at every tick of the arm's clock until the motion ends; return True at a contact."""
        config = self._config.motion
        self._states.newer(time.monotonic(), _START_S)
        checked_s, due_s, is_interrupted = time.monotonic(), self._clock.clock_s(), False
        end_s = due_s + 3 * trajectory.duration_s + _START_S
        while self._connection.is_moving():
            state = self._states.fresh()
            now_s = time.monotonic()
            if now_s - checked_s > config.stall_s:
                raise StreamFault(
                    f"monitoring was interrupted for {now_s - checked_s:.2f} s, more than {config.stall_s:g} s; the "
                    "arm was stopped"
                )
            if self._clock.clock_s() > end_s:
                raise RobotFault(f"expected a motion of {trajectory.duration_s:.1f} s to end, got none; check the arm")
            checked_s = now_s
            self._check(state)
            self._limits.check_tracking(state.desired_rad, state)
            is_due = self._clock.clock_s() >= due_s or state.force_n[2] > config.contact_limit_n
            if trajectory.motion is not None and not is_interrupted and is_due:
                due_s += config.tick_s
                is_interrupted = self._react(trajectory.motion, state)
            time.sleep(_POLL_S)
        return is_interrupted

    def _react(self, motion: Motion, state: ArmState) -> bool:
        """Retreat or stop if a contact force exceeds the limit, and return whether it does."""
        path = motion.path_rad
        motion.limit_by_contact(state.force_n, state.desired_rad, state.hand_m)
        if motion.path_rad is path:
            return False
        if state.force_n[2] > self._config.motion.contact_limit_n:
            above = self._kinematics.solve(state.desired_rad, state.hand_m + np.array([0.0, 0.0, _RECOIL_M]))
            self._connection.retreat(above)
        else:
            self._connection.stop()
        return True

    def _settle(self) -> ArmState:
        """Wait until the arm rests, and return its state."""
        config = self._config.motion
        deadline_s = time.monotonic() + config.rest_timeout_s
        while True:
            state = self._states.newer(time.monotonic(), config.max_state_age_s)
            self._check(state)
            if self._is_at_rest(state):
                return state
            if time.monotonic() > deadline_s:
                raise self._not_at_rest(state)
