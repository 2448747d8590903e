"""How a real arm gets from here to there: the plan of one motion, for whatever carries it out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robot_bridge.franka.config import FrankaConfig
from robot_bridge.franka.state import ArmState, StateSource
from robot_bridge.kinematics import SPEED_LIMITS_RAD_S, Kinematics
from robot_bridge.motion import PEAK, SETTLE_FRACTION, ContactGuard, Motion, along
from robot_bridge.robot import RobotFault

Check = Callable[[ArmState], bool]  # raises RobotFault where the arm may not be moved


@dataclass(frozen=True)
class Trajectory:
    """One motion from rest to rest."""

    target: Callable[[float], NDArray[np.float64]]  # joints (7,) at a share of the time
    duration_s: float
    low_m: NDArray[np.float64]  # (3,) lower corner of the box that the hand may pass, beside the workspace
    high_m: NDArray[np.float64]  # (3,) its upper corner
    way: Motion | None  # which feels what pushes the hand; None where nothing is felt


class TrajectoryExecutor(ABC):
    """Moves one arm. Every call blocks until the arm rests."""

    def __init__(self, config: FrankaConfig, kinematics: Kinematics, states: StateSource, check: Check) -> None:
        """Take what is known of the arm; nothing moves."""
        self._config, self._kinematics = config, kinematics
        self._states, self._check = states, check
        self._retreat_m = config.motion.retreat_m

    @abstractmethod
    def move(self, state: ArmState, delta_m: NDArray[np.float64] | NDArray[np.float32]) -> None:
        """Move the hand straight by `delta_m` (3,), no deeper or further than what pushes back allows.

        Raises:
            RobotFault: The arm stopped itself, or must not go on.
        """

    @abstractmethod
    def go(self, state: ArmState, joints_rad: NDArray[np.float64]) -> None:
        """Move the joints to `joints_rad` (7,), each in proportion.

        Raises:
            RobotFault: The arm stopped itself, or must not go on.
        """

    def _straight(
        self, state: ArmState, delta_m: NDArray[np.float64] | NDArray[np.float32], shortest_s: float | None = None
    ) -> Trajectory:
        """Plan a straight motion of the hand by `delta_m`; it takes as long as a step, or `shortest_s`, at least."""
        motion = self._config.motion
        guard = ContactGuard(motion.contact_limit_n, motion.tick_s, self._retreat_m)
        way = Motion(self._kinematics, state.desired_rad, state.hand_m, delta_m, guard)
        steps = np.abs(np.diff(way.path_rad, axis=0)).max(axis=0) * (len(way.path_rad) - 1)
        descent_s = PEAK * max(0.0, -float(delta_m[2])) / motion.descent_m_s
        least_s = self._config.step_s * (1 - SETTLE_FRACTION) if shortest_s is None else shortest_s
        return Trajectory(way.target, max(least_s, self._least_s(steps), descent_s), state.hand_m, state.hand_m, way)

    def _through_joints(self, state: ArmState, joints_rad: NDArray[np.float64]) -> Trajectory:
        """Plan a motion of the joints to `joints_rad` (7,)."""
        path = np.stack([state.desired_rad, joints_rad])
        hands = np.stack([self._kinematics.hand(along(path, share)) for share in np.linspace(0, 1, 20)])

        def target(share: float) -> NDArray[np.float64]:
            return along(path, share**3 * (10 - 15 * share + 6 * share**2))

        return Trajectory(target, self._least_s(np.abs(path[1] - path[0])), hands.min(axis=0), hands.max(axis=0), None)

    def _least_s(self, change_rad: NDArray[np.float64]) -> float:
        """Return how long a minimum-jerk motion over (7,) joint angles must take."""
        speed = self._config.motion.speed_fraction * SPEED_LIMITS_RAD_S
        return max(self._config.motion.tick_s, float((PEAK * change_rad / speed).max()))

    def _is_at_rest(self, state: ArmState) -> bool:
        return bool(np.abs(state.speeds_rad_s).max() < self._config.motion.rest_rad_s)

    def _restless(self, state: ArmState) -> RobotFault:
        speeds = state.speeds_rad_s.round(3).tolist()
        return RobotFault(
            f"expected an arm at rest within {self._config.motion.rest_timeout_s:g} s, got {speeds} rad/s"
        )
