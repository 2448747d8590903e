"""Trajectories of a real arm: the plan of one motion, and the interface of its execution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robot_bridge.franka.config import FrankaConfig
from robot_bridge.franka.state import ArmState, StateSource
from robot_bridge.kinematics import SPEED_LIMITS_RAD_S, Kinematics
from robot_bridge.motion import PEAK, SETTLE_FRACTION, ContactGuard, Motion, along, minimum_jerk
from robot_bridge.robot import RobotFault

Check = Callable[[ArmState], bool]  # raises RobotFault if the arm may not move


@dataclass(frozen=True)
class Trajectory:
    """One motion from rest to rest."""

    target: Callable[[float], NDArray[np.float64]]  # joints (7,) at a fraction of the duration
    duration_s: float
    low_m: NDArray[np.float64]  # (3,) lower corner of the box that the hand may pass besides the workspace
    high_m: NDArray[np.float64]  # (3,) its upper corner
    motion: Motion | None  # limits the path by contact forces; None: they are not limited


class TrajectoryExecutor(ABC):
    """Plans and executes the motions of one arm. Every motion blocks until the arm rests."""

    def __init__(self, config: FrankaConfig, kinematics: Kinematics, states: StateSource, check: Check) -> None:
        """Set what is needed to plan; nothing moves."""
        self._config, self._kinematics = config, kinematics
        self._states, self._check = states, check
        self._retreat_m = config.motion.retreat_m

    @abstractmethod
    def move_hand(self, state: ArmState, delta_m: NDArray[np.float64] | NDArray[np.float32]) -> None:
        """Move the hand straight by `delta_m` (3,), as far as contact forces allow.

        Raises:
            RobotFault: The arm stopped, or may not move.
        """

    @abstractmethod
    def move_joints(self, state: ArmState, joints_rad: NDArray[np.float64]) -> None:
        """Move all joints to `joints_rad` (7,) in proportion.

        Raises:
            RobotFault: The arm stopped, or may not move.
        """

    def _straight(
        self, state: ArmState, delta_m: NDArray[np.float64] | NDArray[np.float32], shortest_s: float | None = None
    ) -> Trajectory:
        """Plan a straight motion of the hand by `delta_m`, at least as long as a step or `shortest_s`."""
        config = self._config.motion
        guard = ContactGuard(config.contact_limit_n, config.tick_s, self._retreat_m)
        motion = Motion(self._kinematics, state.desired_rad, state.hand_m, delta_m, guard)
        steps = np.abs(np.diff(motion.path_rad, axis=0)).max(axis=0) * (len(motion.path_rad) - 1)
        descent_s = PEAK * max(0.0, -float(delta_m[2])) / config.descent_m_s
        least_s = self._config.step_s * (1 - SETTLE_FRACTION) if shortest_s is None else shortest_s
        duration_s = max(least_s, self._least_s(steps), descent_s)
        return Trajectory(motion.target, duration_s, state.hand_m, state.hand_m, motion)

    def _through_joints(self, state: ArmState, joints_rad: NDArray[np.float64]) -> Trajectory:
        """Plan a motion of the joints to `joints_rad` (7,)."""
        path = np.stack([state.desired_rad, joints_rad])
        hands = np.stack([self._kinematics.hand(along(path, fraction)) for fraction in np.linspace(0, 1, 20)])

        def target(fraction: float) -> NDArray[np.float64]:
            return along(path, minimum_jerk(fraction))

        return Trajectory(target, self._least_s(np.abs(path[1] - path[0])), hands.min(axis=0), hands.max(axis=0), None)

    def _least_s(self, change_rad: NDArray[np.float64]) -> float:
        """Return the shortest duration of a minimum-jerk motion over (7,) joint angles."""
        speed = self._config.motion.speed_fraction * SPEED_LIMITS_RAD_S
        return max(self._config.motion.tick_s, float((PEAK * change_rad / speed).max()))

    def _is_at_rest(self, state: ArmState) -> bool:
        return bool(np.abs(state.speeds_rad_s).max() < self._config.motion.rest_rad_s)

    def _not_at_rest(self, state: ArmState) -> RobotFault:
        speeds = state.speeds_rad_s.round(3).tolist()
        return RobotFault(
            f"expected an arm at rest within {self._config.motion.rest_timeout_s:g} s, got {speeds} rad/s"
        )
