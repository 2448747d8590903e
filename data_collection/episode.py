"""One recorded episode, independent of its file format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from configs.command import ReportedError

ROBOT_ACTIONS = "dx, dy, dz in metres and gripper, +1 closes"  # paper E.1

_Vector = tuple[float, float, float]


class EpisodeError(ReportedError):
    """An episode or file that cannot be used. Nothing was written or changed."""


@dataclass(frozen=True)
class Episode:
    """T actions between T + 1 frames: action t leads from frame t to frame t + 1.

    A is 4 and S is 5 for this project's robots, 0 and 0 for videos; other recordings have their own sizes.

    Raises:
        EpisodeError: From the constructor, when counts, shapes or dtypes disagree or a number is not finite.
    """

    frames: NDArray[np.uint8]  # (T+1, H, W, 3) RGB
    states: NDArray[np.float64]  # (T+1, S); ours: x, y, z [m], yaw [rad], gripper opening in [0, 1]
    actions: NDArray[np.float32]  # (T, A) applied; ours: dx, dy, dz [m], gripper +1 closes / -1 opens
    commanded: NDArray[np.float32]  # (T, A) before the safety limits
    times_s: NDArray[np.float64]  # (T+1,) monotonic
    info: Mapping[str, str | int | float | bool] = field(default_factory=dict)  # policy, seed, robot, ...
    action_space: str = ROBOT_ACTIONS  # meaning of the action numbers; empty without actions
    workspace_m: tuple[_Vector, _Vector] | None = None  # low and high corner; None if unknown

    def __post_init__(self) -> None:
        n = len(self.actions)
        if self.states.ndim != 2 or self.actions.ndim != 2:
            raise EpisodeError(
                f"expected states (T+1, S) and actions (T, A), got {self.states.shape} and {self.actions.shape}"
            )
        n_state_dims, n_action_dims = self.states.shape[1], self.actions.shape[1]
        expected = {"states": (n + 1, n_state_dims), "commanded": (n, n_action_dims), "times_s": (n + 1,)}
        for name, shape in expected.items():
            array = getattr(self, name)
            if array.shape != shape:
                raise EpisodeError(f"{n} actions need {name} of shape {shape}, got {array.shape}")
        for name in ("states", "actions", "commanded", "times_s"):
            if not np.isfinite(getattr(self, name)).all():
                raise EpisodeError(f"{name}: expected finite numbers, got NaN or infinity")
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[-1] != 3 or not self.frames.size:
            raise EpisodeError(f"expected uint8 frames (T+1, H, W, 3), got {self.frames.dtype} {self.frames.shape}")
        if len(self.frames) != n + 1 or n < 1:
            raise EpisodeError(
                f"{n} actions need {n + 1} frames and at least one action, got {len(self.frames)} frames"
            )


def video_episode(
    frames: NDArray[np.uint8], info: Mapping[str, str | int | float | bool], step_s: float = 1.0
) -> Episode:
    """Return an episode of frames (T + 1, H, W, 3) alone: no numbers in its actions and states.

    Raises:
        EpisodeError: Fewer than two frames.
    """
    if len(frames) < 2:
        raise EpisodeError(f"expected at least 2 frames, got {len(frames)}")
    n = len(frames) - 1
    nothing = np.empty((n, 0), np.float32)
    times_s = np.arange(n + 1, dtype=np.float64) * np.float64(step_s)
    return Episode(frames, np.empty((n + 1, 0)), nothing, nothing, times_s, info, action_space="")
