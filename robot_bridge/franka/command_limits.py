"""Limits on joint commands: the last check of every joint position before it is sent to a real arm."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robot_bridge.franka.config import MotionConfig
from robot_bridge.franka.state import ArmState
from robot_bridge.kinematics import N_JOINTS, SPEED_LIMITS_RAD_S, Kinematics
from robot_bridge.robot import RobotFault
from robot_bridge.safety import MotionLimits

_ROUNDING = 1 + 1e-6  # tolerance of the speed limit
_SLACK_M = 0.001  # deviation of a straight motion from its line; ours
# The same for motions that start outside the workspace: measured 1.4 mm (8 cm upwards), and 3.5 mm where the motion
# also rights a hand tilted by 0.1 rad. With less, a hand pushed through a wall could not be raised.
_SLACK_OUTSIDE_M = 0.005


class StreamFault(RobotFault):
    """A command was refused, or the stream of commands was interrupted. The arm holds its last target."""


class CommandLimits:
    """Validates each joint command against position, speed, tracking and workspace limits."""

    def __init__(self, config: MotionConfig, limits: MotionLimits, kinematics: Kinematics) -> None:
        """Compute the limits from the configuration."""
        self._config, self._kinematics = config, kinematics
        self._low_m = np.array(limits.workspace_low_m) - config.workspace_margin_m
        self._high_m = np.array(limits.workspace_high_m) + config.workspace_margin_m
        self._bound_rad = config.speed_fraction * SPEED_LIMITS_RAD_S * config.tick_s
        self._last: NDArray[np.float64] | None = None

    @property
    def last_rad(self) -> NDArray[np.float64]:
        """Joints (7,) commanded last."""
        assert self._last is not None  # noqa: S101 - asked after `begin` only
        return self._last

    def begin(self, state: ArmState, low_m: NDArray[np.float64], high_m: NDArray[np.float64]) -> None:
        """Start a motion at the pose that the arm holds.

        Args:
            state: The arm now, at rest.
            low_m: (3,) lower corner of the box that the hand may pass besides the workspace.
            high_m: (3,) its upper corner.

        Raises:
            StreamFault: The commanded and the measured joints differ too much.
        """
        self.check_tracking(state.desired_rad, state)
        start = self._kinematics.hand(state.desired_rad)  # may be outside the workspace; the motion may return
        low_slack_m = np.where(start < self._low_m, _SLACK_OUTSIDE_M, _SLACK_M)
        high_slack_m = np.where(start > self._high_m, _SLACK_OUTSIDE_M, _SLACK_M)
        self._passed_low_m = np.minimum.reduce([self._low_m, low_m, start - low_slack_m])
        self._passed_high_m = np.maximum.reduce([self._high_m, high_m, start + high_slack_m])
        self._last = state.desired_rad.copy()

    def accept(self, joints_rad: NDArray[np.float64]) -> NDArray[np.float64]:
        """Validate joints (7,) for the next tick, record them as the last ones, and return them.

        Raises:
            StreamFault: They are not finite, outside a joint range or the box, or too far from the last ones.
        """
        self.check(joints_rad)
        self._last = joints_rad.copy()
        return joints_rad

    def check_tracking(self, joints_rad: NDArray[np.float64], state: ArmState) -> None:
        """Check the tracking error between commanded joints (7,) and the measured ones.

        Raises:
            StreamFault: It is too large.
        """
        off = float(np.abs(joints_rad - state.joints_rad).max())
        if not off <= self._config.tracking_limit_rad:
            raise StreamFault(
                f"expected an arm within {self._config.tracking_limit_rad:g} rad of the commanded joints, got "
                f"{off:.3f}; check what blocks it"
            )

    def limit_step(self, joints_rad: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the joints (7,) nearest to `joints_rad`, in a straight line, that the next tick may command."""
        change = joints_rad - self.last_rad
        excess = float(np.max(np.abs(change) / self._bound_rad, initial=1.0))
        return joints_rad if excess <= 1.0 else self.last_rad + change / excess

    def check(self, joints_rad: NDArray[np.float64]) -> None:
        """Validate joints (7,) as `accept` does, without recording them."""
        if joints_rad.shape != (N_JOINTS,) or not np.isfinite(joints_rad).all():
            raise StreamFault(f"expected {N_JOINTS} finite joints, got {joints_rad.tolist()}; nothing was sent")
        kinematics = self._kinematics
        beyond = (joints_rad < kinematics.low_rad - 1e-9) | (joints_rad > kinematics.high_rad + 1e-9)
        inward = np.abs(joints_rad - np.clip(joints_rad, kinematics.low_rad, kinematics.high_rad)) < np.abs(
            self.last_rad - np.clip(self.last_rad, kinematics.low_rad, kinematics.high_rad)
        )
        if (beyond & ~inward).any():
            raise StreamFault(
                f"expected joints {self._config.joint_margin_rad:g} rad inside their ranges, got "
                f"{joints_rad.round(4).tolist()}"
            )
        change = joints_rad - self.last_rad
        if (np.abs(change) > self._bound_rad * _ROUNDING).any():
            raise StreamFault(
                f"expected joints within {self._bound_rad.round(4).tolist()} rad of the last ones, got "
                f"{change.round(4).tolist()}"
            )
        hand, low, high = kinematics.hand(joints_rad), self._passed_low_m, self._passed_high_m
        if (hand < low).any() or (hand > high).any():
            raise StreamFault(
                f"expected a hand between {low.tolist()} and {high.tolist()} m, got {hand.round(4).tolist()}"
            )
