"""What is decided from, what is decided, and the planner's errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from configs.command import ReportedError
from ghvae_core.predictor import Context
from robot_bridge.robot import Observation

HOLD, PREVIOUS = "hold", "previous"  # the families of candidates beside those of the policy


class PlannerError(ReportedError):
    """The base of the planner's errors. The arm holds its pose."""


class PlanError(PlannerError):
    """No candidate can be trusted. Nothing of this plan was executed."""

    exit_code: ClassVar[int] = 1


@dataclass(frozen=True)
class PlanningState:
    """All that a plan is made from."""

    observation: Observation  # the present
    context: Context  # what was seen last; its last frame is the present
    goal: NDArray[np.uint8]  # (64, 64, 3) RGB
    gripper: float  # the command that the gripper follows now: +1 closes, -1 opens
    rest: NDArray[np.float32]  # (k, 4) what the previous plan left undone; k may be 0


@dataclass(frozen=True)
class Plan:
    """The candidate that costs least, and what it was chosen from."""

    actions: NDArray[np.float32]  # (horizon, 4) as they would be applied
    cost: float
    index: int  # of the chosen candidate
    families: list[str]  # (N,) where each candidate comes from
    costs: NDArray[np.float32]  # (N,) as the predictor gave them, NaN and infinity included
    best: list[int]  # the candidates of `videos`, best first, all of finite cost
    videos: NDArray[np.uint8]  # (k, horizon, 64, 64, 3) RGB, imagined
    timing_s: Mapping[str, float]  # "propose" and "predict"
    predictor_timing_s: Mapping[str, float]  # the stages inside "predict", as the predictor names them

    @property
    def family(self) -> str:
        """Where the chosen candidate comes from."""
        return self.families[self.index]

    @property
    def n_non_finite(self) -> int:
        """How many candidates had no usable cost and could not be chosen."""
        return int(np.count_nonzero(~np.isfinite(self.costs)))

    @property
    def predicted_frames(self) -> NDArray[np.uint8]:
        """What the chosen candidate is imagined to look like, (horizon, 64, 64, 3); empty if no video of it came."""
        if self.index not in self.best:
            return self.videos[:0].reshape(0, *self.videos.shape[2:])
        video: NDArray[np.uint8] = self.videos[self.best.index(self.index)]
        return video
