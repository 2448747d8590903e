"""The state of a real arm at one moment, never older than it may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robot_bridge.kinematics import FLANGE_TO_HAND_RAD, FLANGE_TO_TCP_M, Kinematics
from robot_bridge.robot import RobotFault

_FRAME_TOLERANCE = 1e-3  # of the tip's frame, metres and direction cosines: what five decimals of an angle leave
_POSE_TOLERANCE_M = 0.005  # between the arm's own hand and ours


class StaleState(RobotFault):
    """The arm has fallen silent, or says what cannot be. Nothing is commanded."""


@dataclass(frozen=True)
class ArmState:
    """The arm at one moment, in the base frame."""

    joints_rad: NDArray[np.float64]  # (7,) measured
    speeds_rad_s: NDArray[np.float64]  # (7,) measured
    desired_rad: NDArray[np.float64]  # (7,) what the arm's own controller wants now
    hand_m: NDArray[np.float64]  # (3,) between the fingertips
    yaw_rad: float
    force_n: NDArray[np.float64]  # (3,) external, on the hand
    mode: int  # see `modes`
    errors: tuple[str, ...]  # libfranka's names of what stopped it
    flange_to_tip: NDArray[np.float64]  # (4, 4), as the arm was told
    time_s: float  # monotonic, of the oldest part

    def is_finite(self) -> bool:
        """Tell whether all that motions depend on are numbers."""
        numbers = (self.joints_rad, self.speeds_rad_s, self.desired_rad, self.hand_m, [self.yaw_rad], self.force_n)
        return bool(np.isfinite(np.concatenate(numbers)).all())


class StateSource(Protocol):
    """Where the states of an arm come from."""

    def fresh(self) -> ArmState:
        """Return the state now.

        Raises:
            StaleState: It is older than it may be, or not finite.
        """
        ...

    def newer(self, than_s: float, timeout_s: float) -> ArmState:
        """Wait for a state of which every part came after a monotonic time, and return it.

        Raises:
            StaleState: None came in time.
        """
        ...


def frame_error(state: ArmState) -> str:
    """Return how the arm's hand is not the one that this bridge believes it to have, or an empty text."""
    c, s = np.cos(FLANGE_TO_HAND_RAD), np.sin(FLANGE_TO_HAND_RAD)
    hand = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, FLANGE_TO_TCP_M], [0, 0, 0, 1]])
    if np.allclose(state.flange_to_tip, hand, rtol=0, atol=_FRAME_TOLERANCE):
        return ""
    return (
        f"F_T_EE: expected the Franka hand, {FLANGE_TO_TCP_M:g} m along z, turned by {FLANGE_TO_HAND_RAD:.4f} rad, "
        f"got {state.flange_to_tip.tolist()}"
    )


def pose_error(state: ArmState, kinematics: Kinematics) -> str:
    """Return how far the arm's hand is from where its joints put it, where that is too far, or an empty text."""
    off_m = float(np.linalg.norm(kinematics.hand(state.joints_rad) - state.hand_m))
    if off_m <= _POSE_TOLERANCE_M:
        return ""
    return f"expected the hand within {_POSE_TOLERANCE_M:g} m of where the joints put it, got {off_m:.3f} m"
