"""Limits on actions: pure functions used by every robot and by the planner."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from configs.command import ReportedError
from configs.loader import Config

_Vector = tuple[float, float, float]


class UnsafeActionError(ReportedError):
    """An action that is not four finite numbers. Nothing moved."""

    exit_code: ClassVar[int] = 1


class MotionLimits(Config):
    """Workspace and step limit of the hand, in the robot base frame."""

    workspace_low_m: _Vector  # lower corner of the box that the hand may enter
    workspace_high_m: _Vector  # upper corner
    step_limit_m: float = Field(gt=0)  # longest translation of one step (Euclidean)

    @model_validator(mode="after")
    def _check_box(self) -> MotionLimits:
        if not all(low < high for low, high in zip(self.workspace_low_m, self.workspace_high_m, strict=True)):
            raise ValueError("expected workspace_low_m below workspace_high_m on every axis")
        return self


def limit_action(
    action: NDArray[np.float32] | NDArray[np.float64], hand_m: NDArray[np.float64], limits: MotionLimits
) -> NDArray[np.float32]:
    """Return the action to apply in place of `action`.

    The translation is shortened to `step_limit_m` along its direction, then its target is clipped to the workspace;
    the gripper becomes exactly +1 (close) or -1 (open). Limiting a limited action changes nothing. A hand
    measured outside the workspace may stay or return, by at most the step limit, but not move further out.

    Args:
        action: (4,) dx, dy, dz in metres in the base frame, then the gripper: above 0 closes, else opens.
        hand_m: (3,) measured hand position, in the base frame.

    Returns:
        (4,) float32, the applied action.

    Raises:
        UnsafeActionError: The action or the hand position is not finite or not of the right shape.
    """
    commanded = np.asarray(action, dtype=np.float64)
    if commanded.shape != (4,) or hand_m.shape != (3,):
        raise UnsafeActionError(
            f"expected an action of shape (4,) and a position of (3,), got {commanded.shape} and {hand_m.shape}"
        )
    applied: NDArray[np.float32] = limit_actions(commanded[None, None], hand_m, limits)[0, 0]
    return applied


def limit_actions(
    actions: NDArray[np.float32] | NDArray[np.float64], hand_m: NDArray[np.float64], limits: MotionLimits
) -> NDArray[np.float32]:
    """Return the actions that would be applied if each sequence were executed from one hand position.

    Args:
        actions: (N, T, 4), as in `limit_action`.
        hand_m: (3,) measured hand position at the first step.

    Returns:
        (N, T, 4) float32. Step t is limited from the position reached by the limited steps before it.

    Raises:
        UnsafeActionError: A value is not finite.
    """
    commanded = np.asarray(actions, dtype=np.float64)
    if not (np.isfinite(commanded).all() and np.isfinite(hand_m).all()):
        raise UnsafeActionError("expected finite actions and a finite hand position, got NaN or infinity")
    low, high = np.array(limits.workspace_low_m), np.array(limits.workspace_high_m)
    applied = np.empty(commanded.shape, dtype=np.float32)
    hand = np.broadcast_to(hand_m, (len(commanded), 3))
    for t in range(commanded.shape[1]):
        length = np.linalg.norm(commanded[:, t, :3], axis=-1, keepdims=True)
        shortened = commanded[:, t, :3] * np.minimum(1.0, limits.step_limit_m / np.maximum(length, 1e-12))
        target = np.clip(hand + shortened, np.minimum(low, hand), np.maximum(high, hand))
        applied[:, t, :3] = target - hand
        applied[:, t, 3] = np.where(commanded[:, t, 3] > 0, 1.0, -1.0)
        hand = target
    return applied
