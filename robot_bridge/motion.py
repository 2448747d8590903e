"""How a hand gets through one step: straight, smooth, and no further than whatever pushes it back allows."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robot_bridge.kinematics import HOME_RAD, Kinematics
from robot_bridge.robot import RobotError
from robot_bridge.safety import MotionLimits

SETTLE_FRACTION = 0.25  # of a step, after the hand's motion, for it to come to rest
PEAK = 1.875  # the highest speed of a minimum-jerk motion, in units of its mean speed
_REACH_M = 0.001  # between a corner of the workspace and where the joints can bring the hand
_PUSH_S = 0.025  # a sideways push is averaged over this long: an object that is hit and flies off stops nothing
_KNOT_M = 0.05  # between two solved points of a path: joints in between keep the hand within 1 mm of the line
_START_SHARES = ((0.25, 0.2, 0.6), (0.75, 0.8, 0.95))  # of the workspace: above the bin and in view


class ContactGuard(NamedTuple):
    """What stops a motion."""

    limit_n: float  # of the force that pushes the hand back
    tick_s: float  # between two looks
    retreat_m: float = 0.0  # with every look, away from what pushes: a hand that only stays goes on being pushed


class Motion:
    """One straight motion of the hand, in joints, with a guard.

    A hand that is pushed up by more than the limit stays at that height for the rest of the motion, while the
    horizontal part goes on; one that is pushed back sideways, and not for a moment only, stays where it is.
    """

    def __init__(
        self,
        kinematics: Kinematics,
        joints_rad: NDArray[np.float64],
        hand_m: NDArray[np.float64],
        delta_m: NDArray[np.float32] | NDArray[np.float64],
        guard: ContactGuard,
    ) -> None:
        """Plan from the commanded joints (7,) and the measured hand (3,) along `delta_m` (3,), in the base frame."""
        self._kinematics, self._guard = kinematics, guard
        self._path = self._straight(joints_rad, hand_m, delta_m)
        self._sideways_n = np.zeros(2)

    @property
    def path_rad(self) -> NDArray[np.float64]:
        """The joints (K, 7) at equal distances on the way; first where it began."""
        return self._path

    def target(self, share: float) -> NDArray[np.float64]:
        """Return the joints (7,) when a share of the time has passed: minimum jerk from rest to rest."""
        return along(self._path, share**3 * (10 - 15 * share + 6 * share**2))

    def feel(self, force_n: NDArray[np.float64], joints_rad: NDArray[np.float64], hand_m: NDArray[np.float64]) -> None:
        """Take what pushes the hand now (3,), the joints commanded last (7,) and the measured hand (3,)."""
        self._sideways_n += (force_n[:2] - self._sideways_n) * self._guard.tick_s / _PUSH_S
        if math.hypot(*self._sideways_n) > self._guard.limit_n:
            self._path = self._straight(joints_rad, hand_m, np.zeros(3))[1:].repeat(2, axis=0)
            self._sideways_n[:] = 0.0
        elif force_n[2] > self._guard.limit_n:
            self._stay_above(float(hand_m[2]) + self._guard.retreat_m)

    def _straight(
        self,
        joints_rad: NDArray[np.float64],
        hand_m: NDArray[np.float64],
        delta_m: NDArray[np.float32] | NDArray[np.float64],
    ) -> NDArray[np.float64]:
        n = max(1, int(np.ceil(np.linalg.norm(delta_m) / _KNOT_M)))
        joints = [joints_rad.copy()]
        for i in range(n):
            joints.append(self._kinematics.solve(joints[-1], hand_m + (i + 1) / n * delta_m))
        return np.stack(joints)

    def _stay_above(self, height_m: float) -> None:
        """Lift every hand position of the path that is below a height to it."""
        lifted = self._path.copy()
        for i, joints in enumerate(self._path):
            hand = self._kinematics.hand(joints)
            if hand[2] < height_m:
                lifted[i] = self._kinematics.solve(joints, np.array([hand[0], hand[1], height_m]))
        self._path = lifted


def along(path: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Return the joints (7,) at a share of a path (K, 7), linear between its points."""
    at = share * (len(path) - 1)
    i = min(int(at), len(path) - 2)
    joints: NDArray[np.float64] = path[i] + (at - i) * (path[i + 1] - path[i])
    return joints


def check_reach(kinematics: Kinematics, limits: MotionLimits) -> None:
    """Refuse a workspace that the arm cannot reach with the hand pointing down.

    Raises:
        RobotError: A corner is out of reach. Nothing moved.
    """
    sides = zip(limits.workspace_low_m, limits.workspace_high_m, strict=True)
    for corner in np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 3):
        reached = kinematics.hand(kinematics.solve(kinematics.solve(HOME_RAD, corner), corner))
        if not np.linalg.norm(reached - corner) <= _REACH_M:
            raise RobotError(f"robot.limits: expected a workspace within reach, got {corner.tolist()}; shrink it")


def draw_start(rng: np.random.Generator, limits: MotionLimits) -> NDArray[np.float64]:
    """Return a hand position (3,) for the start of an episode: above the middle of the workspace."""
    low, high = np.array(limits.workspace_low_m), np.array(limits.workspace_high_m)
    start: NDArray[np.float64] = low + rng.uniform(*_START_SHARES) * (high - low)
    return start
