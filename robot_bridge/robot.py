"""The interface of every robot, simulated or real: the `Robot` protocol and its types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from configs.command import ReportedError
from robot_bridge.camera import Camera
from robot_bridge.safety import MotionLimits

OPEN, CLOSE = -1.0, 1.0  # gripper command, the last number of an action; paper E.1
ACTION_DIM = 4  # dx, dy, dz, gripper; paper E.1
STATE_DIM = 5  # x, y, z, yaw, gripper opening; RoboNet 0.1.0


class RobotError(ReportedError):
    """Base class of all robot errors. The arm holds its pose."""

    exit_code: ClassVar[int] = 1


class RobotFault(RobotError):
    """The arm stopped (reflex, joint limit, user stop). It holds its pose until `recover`."""


class CameraFault(RobotError):
    """The camera gave no usable image (missing, stale, frozen, too dark or too bright). The arm holds its pose."""


@dataclass(frozen=True)
class Observation:
    """Camera image and robot state at one moment, after all motion has ended."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB at camera size
    state: NDArray[np.float64]  # (5,) hand x, y, z [m, base frame], yaw [rad], gripper opening in [0, 1], 1 is open
    time_s: float  # monotonic


@dataclass(frozen=True)
class Step:
    """The applied action and the observation that followed."""

    applied: NDArray[np.float32]  # (4,) after the safety limits; this one is recorded, planned with and scored
    observation: Observation


@dataclass(frozen=True)
class RobotSpec:
    """Static description of a robot, known before it moves."""

    name: str  # RoboNet's `robot`, such as "franka"
    limits: MotionLimits
    camera: Camera
    step_s: float  # duration of one step
    renews_scene: bool = False  # True: every reset places new objects. False: objects stay where the arm left them

    def state_bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the low and high bound of a state, each (5,): the workspace in metres, yaw +-pi, opening 0 to 1."""
        low = np.array([*self.limits.workspace_low_m, -np.pi, 0.0])
        high = np.array([*self.limits.workspace_high_m, np.pi, 1.0])
        return low, high


class Robot(Protocol):
    """An arm with a parallel gripper and one camera. Calls block until the arm rests; one caller at a time."""

    @property
    def spec(self) -> RobotSpec:
        """The description of this robot."""
        ...

    def reset(self, rng: np.random.Generator) -> Observation:
        """Open the gripper, move to a start pose drawn from `rng`, and observe.

        Raises:
            RobotFault: The arm stopped before it reached the start pose.
        """
        ...

    def observe(self) -> Observation:
        """Return an observation without moving. It is newer than the end of the last motion.

        Raises:
            CameraFault: No usable image arrived in time.
        """
        ...

    def step(self, action: NDArray[np.float32]) -> Step:
        """Move the hand by `action`, wait until it rests, and observe. Blocks for about `spec.step_s`.

        Args:
            action: (4,) dx, dy, dz in metres along the base axes, then the gripper: +1 closes, -1 opens.

        Returns:
            The action after `safety.limit_action`, and the observation that followed. Record the applied action, not
            the commanded one.

        Raises:
            UnsafeActionError: The action is not four finite numbers. Nothing moved.
            RobotFault: The arm stopped. It holds its pose until `recover`.
        """
        ...

    def recover(self) -> None:
        """Clear a fault so that `reset` works again. Does nothing when there is no fault.

        Raises:
            RobotFault: The fault could not be cleared; it needs an operator.
        """
        ...

    def close(self) -> None:
        """Stop, hold the pose, and release the device. Safe to call twice."""
        ...
