"""The one interface of every arm, simulated or real, and the types that cross it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from configs.command import ReportedError
from robot_bridge.camera import Camera
from robot_bridge.safety import MotionLimits

OPEN, CLOSE = -1.0, 1.0  # the gripper command, last number of an action; paper E.1
ACTION_DIM = 4  # dx, dy, dz, gripper; paper E.1
STATE_DIM = 5  # x, y, z, yaw, gripper opening; RoboNet 0.1.0


class RobotError(ReportedError):
    """The base of every error of the robot side. The arm holds its pose."""

    exit_code: ClassVar[int] = 1


class RobotFault(RobotError):
    """The arm stopped itself (reflex, joint limit, user stop). It holds its pose until `recover`."""


class CameraFault(RobotError):
    """The camera gave no usable image (none, stale, frozen, black). The arm holds its pose."""


@dataclass(frozen=True)
class Observation:
    """What the robot sees and feels at one moment, after all motion has ended."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB at camera size
    state: NDArray[np.float64]  # (5,) hand x, y, z [m, base frame], yaw [rad], gripper opening in [0, 1], 1 is open
    time_s: float  # monotonic


@dataclass(frozen=True)
class Step:
    """One action as it was applied, and what followed."""

    applied: NDArray[np.float32]  # (4,) after the safety limits; record, plan with and score this one
    observation: Observation


@dataclass(frozen=True)
class RobotSpec:
    """What a robot is, known before it moves."""

    name: str  # RoboNet's `robot`, such as "franka"
    limits: MotionLimits
    camera: Camera
    step_s: float  # duration of one step
    renews_scene: bool = False  # every reset draws new objects at new places; else they stay where the arm left them

    def state_bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the low and high bound of a state, each (5,): the workspace in metres, yaw +-pi, opening 0 to 1."""
        low = np.array([*self.limits.workspace_low_m, -np.pi, 0.0])
        high = np.array([*self.limits.workspace_high_m, np.pi, 1.0])
        return low, high


class Robot(Protocol):
    """An arm with a parallel gripper and one camera. Calls block until the arm rests; one caller at a time."""

    @property
    def spec(self) -> RobotSpec:
        """What this robot is."""
        ...

    def reset(self, rng: np.random.Generator) -> Observation:
        """Open the gripper, go to a start pose drawn from `rng`, and look.

        Raises:
            RobotFault: The arm stopped itself on the way.
        """
        ...

    def observe(self) -> Observation:
        """Look without moving. The observation is newer than the end of the last motion.

        Raises:
            CameraFault: No usable image came in time.
        """
        ...

    def step(self, action: NDArray[np.float32]) -> Step:
        """Move the hand by `action`, wait until it rests, and look. Blocks for about `spec.step_s`.

        Args:
            action: (4,) dx, dy, dz in metres along the base axes, then the gripper: +1 closes, -1 opens.

        Returns:
            The action after `safety.limit_action`, and the observation that followed. Record the applied action: the
            model must learn what happened, not what was asked.

        Raises:
            UnsafeActionError: The action is not four finite numbers. Nothing moved.
            RobotFault: The arm stopped itself. It holds its pose until `recover`.
        """
        ...

    def recover(self) -> None:
        """Clear a fault and return to a state in which `reset` works. Does nothing when there is no fault.

        Raises:
            RobotFault: The fault could not be cleared; a person must look.
        """
        ...

    def close(self) -> None:
        """Stop, hold, and let go of the device. Safe to call twice."""
        ...
