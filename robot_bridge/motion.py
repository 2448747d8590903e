"""Motion of the hand during one step: straight, minimum-jerk, and limited by contact forces."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robot_bridge.kinematics import HOME_RAD, Kinematics
from robot_bridge.robot import RobotError
from robot_bridge.safety import MotionLimits

SETTLE_FRACTION = 0.25  # of a step, reserved after the hand's motion for it to come to rest; ours
PEAK = 1.875  # peak speed of a minimum-jerk motion, in units of its mean speed
_REACH_M = 0.001  # tolerance between a corner of the workspace and the nearest reachable hand position; ours
_PUSH_S = 0.025  # averaging time of sideways forces, so that a short impact does not stop the motion; ours
_KNOT_M = 0.05  # spacing of solved path points; interpolated joints stay within 1 mm of the line; ours
_START_FRACTIONS = (
    (0.25, 0.2, 0.6),
    (0.75, 0.8, 0.95),
)  # low and high start position as fractions of the workspace: above the bin, in view


class ContactGuard(NamedTuple):
    """Contact limits of one motion."""

    limit_n: float  # contact force that limits the motion
    tick_s: float  # between two force readings
    retreat_m: float = 0.0  # upward retreat at every reading above the limit, to release the contact


class Motion:
    """One straight motion of the hand as a joint path, limited by contact forces.

    If an upward force exceeds the limit, the hand stays at that height for the rest of the motion while the
    horizontal part continues. If an averaged sideways force exceeds it, the hand stops where it is.
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
        """Joints (K, 7) at equal distances along the path, from its start."""
        return self._path

    def target(self, fraction: float) -> NDArray[np.float64]:
        """Return the joints (7,) at a fraction of the duration: minimum jerk from rest to rest."""
        return along(self._path, minimum_jerk(fraction))

    def limit_by_contact(
        self, force_n: NDArray[np.float64], joints_rad: NDArray[np.float64], hand_m: NDArray[np.float64]
    ) -> None:
        """Limit the rest of the path by the contact force (3,).

        Args:
            force_n: (3,) contact force on the hand, base frame.
            joints_rad: (7,) joints commanded last.
            hand_m: (3,) measured hand position.
        """
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
        """Raise every hand position of the path to at least a height."""
        lifted = self._path.copy()
        for i, joints in enumerate(self._path):
            hand = self._kinematics.hand(joints)
            if hand[2] < height_m:
                lifted[i] = self._kinematics.solve(joints, np.array([hand[0], hand[1], height_m]))
        self._path = lifted


def minimum_jerk(fraction: float) -> float:
    """Return the fraction of the path at a fraction of the duration, from rest to rest with minimum jerk."""
    return fraction**3 * (10 - 15 * fraction + 6 * fraction**2)


def along(path: NDArray[np.float64], fraction: float) -> NDArray[np.float64]:
    """Return the joints (7,) at a fraction of a path (K, 7), linear between its points."""
    at = fraction * (len(path) - 1)
    i = min(int(at), len(path) - 2)
    joints: NDArray[np.float64] = path[i] + (at - i) * (path[i + 1] - path[i])
    return joints


def check_reach(kinematics: Kinematics, limits: MotionLimits) -> None:
    """Refuse a workspace that the arm cannot reach with the hand pointing straight down.

    Raises:
        RobotError: A corner is out of reach. Nothing moved.
    """
    sides = zip(limits.workspace_low_m, limits.workspace_high_m, strict=True)
    for corner in np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 3):
        reached = kinematics.hand(kinematics.solve(kinematics.solve(HOME_RAD, corner), corner))
        if not np.linalg.norm(reached - corner) <= _REACH_M:
            raise RobotError(
                f"robot.limits: expected a reachable workspace, got the corner {corner.tolist()}; shrink it"
            )


def draw_start(rng: np.random.Generator, limits: MotionLimits) -> NDArray[np.float64]:
    """Draw a hand position (3,) for the start of an episode, above the middle of the workspace."""
    low, high = np.array(limits.workspace_low_m), np.array(limits.workspace_high_m)
    start: NDArray[np.float64] = low + rng.uniform(*_START_FRACTIONS) * (high - low)
    return start
