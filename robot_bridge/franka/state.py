"""The state of a real arm, and the interface of its sources, which return recent states only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robot_bridge.kinematics import FLANGE_TO_HAND_RAD, FLANGE_TO_TCP, FLANGE_TO_TCP_M, Kinematics
from robot_bridge.robot import RobotFault

_FRAME_TOLERANCE = 1e-3  # of F_T_EE, metres and direction cosines: what five decimals of an angle leave
_POSE_TOLERANCE_M = 0.005  # between the reported hand and the one computed from the joints; ours


class StaleState(RobotFault):
    """The arm sends no recent state, or an invalid one. Nothing is commanded."""


@dataclass(frozen=True)
class ArmState:
    """The arm at one moment, in the base frame."""

    joints_rad: NDArray[np.float64]  # (7,) measured
    speeds_rad_s: NDArray[np.float64]  # (7,) measured
    desired_rad: NDArray[np.float64]  # (7,) targets of the arm's own controller
    hand_m: NDArray[np.float64]  # (3,) between the fingertips
    yaw_rad: float
    force_n: NDArray[np.float64]  # (3,) external, on the hand
    mode: int  # see `recovery`
    errors: tuple[str, ...]  # libfranka's names of the errors that stopped it
    flange_to_tip: NDArray[np.float64]  # (4, 4), as configured in the arm
    time_s: float  # monotonic, of the oldest part

    def is_finite(self) -> bool:
        """Return whether all values that motions depend on are finite."""
        numbers = (self.joints_rad, self.speeds_rad_s, self.desired_rad, self.hand_m, [self.yaw_rad], self.force_n)
        return bool(np.isfinite(np.concatenate(numbers)).all())


class StateSource(Protocol):
    """A connection that delivers states of an arm."""

    def fresh(self) -> ArmState:
        """Return the latest state.

        Raises:
            StaleState: It is older than allowed, or not finite.
        """
        ...

    def newer(self, than_s: float, timeout_s: float) -> ArmState:
        """Wait for a state of which every part arrived after a monotonic time, and return it.

        Raises:
            StaleState: None arrived in time.
        """
        ...


def frame_error(state: ArmState) -> str:
    """Return how the configured end effector differs from the Franka hand, or an empty text."""
    if np.allclose(state.flange_to_tip, FLANGE_TO_TCP, rtol=0, atol=_FRAME_TOLERANCE):
        return ""
    return (
        f"F_T_EE: expected the Franka hand, {FLANGE_TO_TCP_M:g} m along z, turned by {FLANGE_TO_HAND_RAD:.4f} rad, "
        f"got {state.flange_to_tip.tolist()}"
    )


def pose_error_m(state: ArmState, kinematics: Kinematics) -> float:
    """Return the distance between the reported hand position and the one computed from the joints."""
    return float(np.linalg.norm(kinematics.hand(state.joints_rad) - state.hand_m))


def pose_error(state: ArmState, kinematics: Kinematics) -> str:
    """Return how far the reported hand position is off, if that exceeds the tolerance, or an empty text."""
    off_m = pose_error_m(state, kinematics)
    if off_m <= _POSE_TOLERANCE_M:
        return ""
    return f"expected the hand within {_POSE_TOLERANCE_M:g} m of the pose computed from the joints, got {off_m:.3f} m"
