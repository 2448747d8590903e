"""Kinematics of the Franka Panda: forward, and inverse for a hand that points straight down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

N_JOINTS: Final = 7
HOME_RAD: Final = np.array(
    [0.0, 0.1, 0.0, -2.35, 0.0, 2.45, np.pi / 4]
)  # joint 6 = joint 2 - joint 4: the hand points down
RANGES_RAD: Final = (  # Franka data sheet
    (-2.8973, 2.8973),
    (-1.7628, 1.7628),
    (-2.8973, 2.8973),
    (-3.0718, -0.0698),
    (-2.8973, 2.8973),
    (-0.0175, 3.7525),
    (-2.8973, 2.8973),
)
FR3_RANGES_RAD: Final = (  # Franka Research 3 data sheet
    (-2.7437, 2.7437),
    (-1.7837, 1.7837),
    (-2.9007, 2.9007),
    (-3.0421, -0.1518),
    (-2.8065, 2.8065),
    (0.5445, 4.5169),
    (-3.0159, 3.0159),
)
SPEED_LIMITS_RAD_S: Final = np.array([2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61])  # Franka data sheet
FLANGE_TO_TCP_M: Final = 0.1034  # along the hand's z axis, to the point between the fingertips; Franka hand
FLANGE_TO_HAND_RAD: Final = -np.pi / 4  # about the same axis; Franka hand
_COS, _SIN = np.cos(FLANGE_TO_HAND_RAD), np.sin(FLANGE_TO_HAND_RAD)
FLANGE_TO_TCP: Final = np.array(  # homogeneous transform (4, 4)
    [[_COS, -_SIN, 0, 0], [_SIN, _COS, 0, 0], [0, 0, 1, FLANGE_TO_TCP_M], [0, 0, 0, 1]]
)

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
_DAMPING = 1e-4  # of the least squares; ours
_HOMING = 0.5  # fraction of the null-space motion towards home in one iteration; ours
_ITERATIONS = 8
_TOLERANCE = 1e-4  # of a solution, metres and radians; ours


class Pose(NamedTuple):
    """Pose and Jacobian of the hand in the base frame."""

    position_m: NDArray[np.float64]  # (3,)
    axes: NDArray[np.float64]  # (3, 3), columns are the hand's x, y and z axes
    jacobian: NDArray[np.float64]  # (6, 7), translation then rotation


Forward = Callable[[NDArray[np.float64]], Pose]


def forward(joints_rad: NDArray[np.float64]) -> Pose:
    """Return the hand's pose and Jacobian for joints (7,)."""
    axes, origin = np.eye(3), np.zeros(3)
    axes_z, origins = [], []
    for (a, d, alpha), angle in zip(_DH, joints_rad, strict=True):
        origin = origin + axes @ np.array([a, -d * np.sin(alpha), d * np.cos(alpha)])
        axes = axes @ _about_x(alpha)
        axes_z.append(axes[:, 2])
        origins.append(origin)
        axes = axes @ _about_z(float(angle))
    position = origin + axes[:, 2] * (_FLANGE_M + FLANGE_TO_TCP_M)
    rotation = np.stack(axes_z)
    jacobian = np.vstack([np.cross(rotation, position - np.stack(origins)).T, rotation.T])
    return Pose(position, axes @ _about_z(FLANGE_TO_HAND_RAD), jacobian)


class Kinematics:
    """Inverse kinematics by damped least squares; the null-space motion is drawn towards the home pose."""

    def __init__(self, pose: Forward = forward, margin_rad: float = 0.0, *, fits_fr3: bool = False) -> None:
        """Set the forward model and the joint ranges.

        Args:
            pose: The forward kinematics; the simulation passes its own.
            margin_rad: Distance kept from both ends of every joint range.
            fits_fr3: Use the ranges common to the Panda and the Franka Research 3, whose link lengths are equal.
        """
        self._pose = pose
        low, high = np.array(RANGES_RAD).T
        if fits_fr3:
            low, high = (
                np.maximum(low, np.array(FR3_RANGES_RAD)[:, 0]),
                np.minimum(high, np.array(FR3_RANGES_RAD)[:, 1]),
            )
        self.low_rad, self.high_rad = low + margin_rad, high - margin_rad

    def solve(self, start_rad: NDArray[np.float64], hand_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return joints (7,) near `start_rad` with the hand at `hand_m` (3,), or as near as the ranges allow."""
        joints = start_rad.copy()
        for _ in range(_ITERATIONS):
            position, axes, jacobian = self._pose(joints)
            error = np.concatenate([hand_m - position, 0.5 * _turn_down(axes)])
            if np.abs(error).max() < _TOLERANCE:
                break
            home = _HOMING * (HOME_RAD - joints)  # makes the elbow independent of earlier motions
            step = home + jacobian.T @ np.linalg.solve(
                jacobian @ jacobian.T + _DAMPING * np.eye(6), error - jacobian @ home
            )
            step = np.minimum(np.maximum(step, -0.3), 0.3)  # np.clip is five times slower
            joints = np.minimum(np.maximum(joints + step, self.low_rad), self.high_rad)
        return joints

    def hand(self, joints_rad: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the hand's position (3,) in metres for joints (7,)."""
        return self._pose(joints_rad).position_m


def _turn_down(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return twice the small rotation (3,) in radians that points the hand (3, 3) straight down, its x axis ahead."""
    return np.array([axes[2, 1] - axes[1, 2], axes[2, 0] + axes[0, 2], -axes[1, 0] - axes[0, 1]])


def _about_x(angle_rad: float) -> NDArray[np.float64]:
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def _about_z(angle_rad: float) -> NDArray[np.float64]:
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
