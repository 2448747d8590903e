"""The Franka Panda's kinematics, forward from the maker's figures and inverse for a hand that points straight down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

N_JOINTS: Final = 7
HOME_RAD: Final = np.array([0.0, 0.1, 0.0, -2.35, 0.0, 2.45, np.pi / 4])  # joint 6 = 2 - 4: the hand points down
RANGES_RAD: Final = (  # Franka data sheet
    (-2.8973, 2.8973),
    (-1.7628, 1.7628),
    (-2.8973, 2.8973),
    (-3.0718, -0.0698),
    (-2.8973, 2.8973),
    (-0.0175, 3.7525),
    (-2.8973, 2.8973),
)
FR3_RANGES_RAD: Final = (  # Franka Research 3, its data sheet
    (-2.7437, 2.7437),
    (-1.7837, 1.7837),
    (-2.9007, 2.9007),
    (-3.0421, -0.1518),
    (-2.8065, 2.8065),
    (0.5445, 4.5169),
    (-3.0159, 3.0159),
)
SPEED_LIMITS_RAD_S: Final = np.array([2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61])  # Franka data sheet
FLANGE_TO_TCP_M: Final = 0.1034  # along the hand's z axis, to between the fingertips; Franka hand
FLANGE_TO_HAND_RAD: Final = -np.pi / 4  # about it

_DH: Final = (  # a [m], d [m], alpha [rad] of each joint in Craig's convention; Franka documentation
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -np.pi / 2),
    (0.0, 0.316, np.pi / 2),
    (0.0825, 0.0, np.pi / 2),
    (-0.0825, 0.384, -np.pi / 2),
    (0.0, 0.0, np.pi / 2),
    (0.088, 0.0, np.pi / 2),
)
_FLANGE_M: Final = 0.107
_DAMPING = 1e-4  # of the least squares
_HOMING = 0.5  # share of the way to the home posture, within what leaves the hand alone, of one iteration
_ITERATIONS = 8
_CLOSE_ENOUGH = 1e-4  # metres and radians


class Pose(NamedTuple):
    """Where the hand is, and how it moves with the joints; all in the base frame."""

    position_m: NDArray[np.float64]  # (3,)
    axes: NDArray[np.float64]  # (3, 3), its columns are the hand's x, y and z
    jacobian: NDArray[np.float64]  # (6, 7), translation then rotation


Forward = Callable[[NDArray[np.float64]], Pose]


def forward(joints_rad: NDArray[np.float64]) -> Pose:
    """Return the hand's pose for joints (7,)."""
    axes, origin = np.eye(3), np.zeros(3)
    turns, places = [], []
    for (a, d, alpha), angle in zip(_DH, joints_rad, strict=True):
        origin = origin + axes @ np.array([a, -d * np.sin(alpha), d * np.cos(alpha)])
        axes = axes @ _about_x(alpha)
        turns.append(axes[:, 2])
        places.append(origin)
        axes = axes @ _about_z(float(angle))
    position = origin + axes[:, 2] * (_FLANGE_M + FLANGE_TO_TCP_M)
    spun = np.stack(turns)
    jacobian = np.vstack([np.cross(spun, position - np.stack(places)).T, spun.T])
    return Pose(position, axes @ _about_z(FLANGE_TO_HAND_RAD), jacobian)


class Kinematics:
    """Inverse kinematics by damped least squares, with the arm's one free motion drawn towards home."""

    def __init__(self, pose: Forward = forward, margin_rad: float = 0.0, *, suits_fr3: bool = False) -> None:
        """Solve on a model of the arm.

        Args:
            pose: The model; the simulation brings its own.
            margin_rad: Joints stay this far inside their ranges.
            suits_fr3: The ranges are those that the Panda and its successor, of the same lengths, share.
        """
        self._pose = pose
        low, high = np.array(RANGES_RAD).T
        if suits_fr3:
            low, high = (
                np.maximum(low, np.array(FR3_RANGES_RAD)[:, 0]),
                np.minimum(high, np.array(FR3_RANGES_RAD)[:, 1]),
            )
        self.low_rad, self.high_rad = low + margin_rad, high - margin_rad

    def solve(self, start_rad: NDArray[np.float64], hand_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the joints (7,) in radians, near `start_rad`, that bring the hand (3,) to `hand_m`, or near it."""
        joints = start_rad.copy()
        for _ in range(_ITERATIONS):
            position, axes, jacobian = self._pose(joints)
            error = np.concatenate([hand_m - position, 0.5 * _turn_down(axes)])
            if np.abs(error).max() < _CLOSE_ENOUGH:
                break
            home = _HOMING * (HOME_RAD - joints)  # the elbow ends where no history shows
            step = home + jacobian.T @ np.linalg.solve(
                jacobian @ jacobian.T + _DAMPING * np.eye(6), error - jacobian @ home
            )
            step = np.minimum(np.maximum(step, -0.3), 0.3)  # np.clip takes five times as long
            joints = np.minimum(np.maximum(joints + step, self.low_rad), self.high_rad)
        return joints

    def hand(self, joints_rad: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the hand's position (3,) in metres for joints (7,)."""
        return self._pose(joints_rad).position_m


def _turn_down(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return twice the small turn (3,) in radians that makes the hand (3, 3) point straight down, its x axis ahead."""
    return np.array([axes[2, 1] - axes[1, 2], axes[2, 0] + axes[0, 2], -axes[1, 0] - axes[0, 1]])


def _about_x(angle_rad: float) -> NDArray[np.float64]:
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def _about_z(angle_rad: float) -> NDArray[np.float64]:
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
