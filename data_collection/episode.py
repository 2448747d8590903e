"""One recorded episode, whatever file it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from configs.command import ReportedError


class EpisodeError(ReportedError):
    """An episode, or a file of one, that cannot be used. Nothing was written or changed."""


@dataclass(frozen=True)
class Episode:
    """T actions between T + 1 frames: action t leads from frame t to frame t + 1.

    Raises:
        EpisodeError: From the constructor, when counts, shapes or dtypes disagree or a number is not finite.
    """

    frames: NDArray[np.uint8]  # (T+1, H, W, 3) RGB
    states: NDArray[np.float64]  # (T+1, 5) x, y, z [m], yaw [rad], gripper opening in [0, 1]
    actions: NDArray[np.float32]  # (T, 4) applied: dx, dy, dz [m], gripper +1 closes / -1 opens
    commanded: NDArray[np.float32]  # (T, 4) as asked, before the safety limits
    times_s: NDArray[np.float64]  # (T+1,) monotonic
    info: Mapping[str, str | int | float | bool] = field(default_factory=dict)  # policy, seed, robot, ...

    def __post_init__(self) -> None:
        n = len(self.actions)
        expected = {"states": (n + 1, 5), "actions": (n, 4), "commanded": (n, 4), "times_s": (n + 1,)}
        for name, shape in expected.items():
            array = getattr(self, name)
            if array.shape != shape:
                raise EpisodeError(f"{n} actions need {name} of shape {shape}, got {array.shape}")
            if not np.isfinite(array).all():
                raise EpisodeError(f"{name}: expected finite numbers, got NaN or infinity")
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[-1] != 3:
            raise EpisodeError(f"expected uint8 frames (T+1, H, W, 3), got {self.frames.dtype} {self.frames.shape}")
        if len(self.frames) != n + 1 or n < 1:
            raise EpisodeError(
                f"{n} actions need {n + 1} frames and at least one action, got {len(self.frames)} frames"
            )
