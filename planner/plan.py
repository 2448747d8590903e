"""The input and the output of planning, and the planner's errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from configs.command import ReportedError
from data_collection.policies.families import MEANINGS
from ghvae_core.predictor import Context
from robot_bridge.robot import Observation

HOLD, PREVIOUS = "hold", "previous"  # candidate families that the planner adds to those of the policy
FAMILY_MEANINGS: Mapping[str, str] = {  # candidate family: what its candidates do
    HOLD: "hold still",
    PREVIOUS: "go on with the previous plan",
    **MEANINGS,
}


class PlannerError(ReportedError):
    """Base of the planner's errors. The arm holds its pose."""


class PlanError(PlannerError):
    """No candidate has a usable cost. Nothing of this plan was executed."""

    exit_code: ClassVar[int] = 1


@dataclass(frozen=True)
class PlanningState:
    """The input of one plan."""

    observation: Observation  # the present
    context: Context  # the last frames and actions; its last frame shows the present
    goal: NDArray[np.uint8]  # (64, 64, 3) RGB
    gripper: float  # the gripper command in effect: +1 closes, -1 opens
    rest: NDArray[np.float32]  # (k, 4) actions of the previous plan that were not executed; k may be 0


@dataclass(frozen=True)
class Plan:
    """The candidate of least cost, and all candidates that it was chosen from."""

    actions: NDArray[np.float32]  # (horizon, 4) after the safety limits
    cost: float
    index: int  # of the chosen candidate
    families: list[str]  # (N,) source of each candidate
    costs: NDArray[np.float32]  # (N,) from the predictor; may hold NaN and infinity
    best: list[int]  # the candidates of `videos`: low costs, and videos that differ; best first, all of finite cost
    videos: NDArray[np.uint8]  # (k, horizon, 64, 64, 3) RGB, predicted
    timing_s: Mapping[str, float]  # "propose" and "predict"
    predictor_timing_s: Mapping[str, float]  # the stages within "predict", named by the predictor

    @property
    def family(self) -> str:
        """Source of the chosen candidate."""
        return self.families[self.index]

    @property
    def gain(self) -> float:
        """How much less it costs than holding still, relative to that; infinity where that has no finite cost."""
        hold = float(self.costs[self.families.index(HOLD)]) if HOLD in self.families else float("nan")
        if not np.isfinite(hold):
            return float("inf")
        return (hold - self.cost) / hold if hold > 0 else 0.0

    @property
    def n_non_finite(self) -> int:
        """Number of candidates without a finite cost."""
        return int(np.count_nonzero(~np.isfinite(self.costs)))

    @property
    def predicted_frames(self) -> NDArray[np.uint8]:
        """Predicted frames of the chosen candidate, (horizon, 64, 64, 3); (0, 64, 64, 3) without a video of it."""
        if self.index not in self.best:
            return self.videos[:0].reshape(0, *self.videos.shape[2:])
        video: NDArray[np.uint8] = self.videos[self.best.index(self.index)]
        return video
