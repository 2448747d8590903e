"""What a plan has tried so far, and the best of it."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from data_collection.policies.waypoints import Sequences
from ghvae_core.predictor import Prediction, PredictorError
from planner.plan import Plan, PlanError
from planner.refinement import Scored


class Search:
    """Grows part by part; the predictor's answers are checked on the way in."""

    def __init__(self) -> None:
        self._actions: list[NDArray[np.float32]] = []
        self._families: list[str] = []
        self._costs: list[NDArray[np.float32]] = []
        self._videos: dict[int, NDArray[np.uint8]] = {}  # by candidate, of finite cost
        self._no_videos = np.empty((0, 0, 64, 64, 3), np.uint8)
        self._timing_s = {"propose": 0.0, "predict": 0.0}
        self._predictor_timing_s: defaultdict[str, float] = defaultdict(float)

    @property
    def n_scored(self) -> int:
        """How many candidates have been weighed."""
        return len(self._families)

    @property
    def candidate_s(self) -> float:
        """Seconds that one candidate took on average, to come about and to be imagined; 0 before the first."""
        return sum(self._timing_s.values()) / max(1, self.n_scored)

    def proposed(self, duration_s: float) -> None:
        """Note how long candidates took to come about."""
        self._timing_s["propose"] += duration_s

    def add(self, candidates: Sequences, prediction: Prediction, duration_s: float) -> None:
        """Take what the predictor says of some candidates.

        Raises:
            PredictorError: The answer does not fit them.
        """
        _check(prediction, candidates.actions)
        for best, video in zip(prediction.best.tolist(), prediction.videos, strict=True):
            if np.isfinite(prediction.costs[best]):
                self._videos[self.n_scored + best] = video
        self._no_videos = prediction.videos[:0]
        self._actions.append(candidates.actions)
        self._families += candidates.families
        self._costs.append(prediction.costs)
        self._timing_s["predict"] += duration_s
        for stage, stage_s in prediction.timing_s.items():
            self._predictor_timing_s[stage] += stage_s

    def scored(self) -> Scored:
        """Return all candidates so far with their costs; at least one part has been added."""
        return Scored(Sequences(np.concatenate(self._actions), self._families), np.concatenate(self._costs))

    def plan(self, n_videos: int) -> Plan:
        """Return the best candidate, and the videos of the best few.

        Raises:
            PlanError: No candidate has a finite cost.
        """
        candidates, costs = self.scored()
        index = _least(costs)
        best = sorted(self._videos, key=lambda i: (float(costs[i]), i))[:n_videos]
        return Plan(
            actions=candidates.actions[index],
            cost=float(costs[index]),
            index=index,
            families=candidates.families,
            costs=costs,
            best=best,
            videos=np.array([self._videos[i] for i in best]) if best else self._no_videos,
            timing_s=dict(self._timing_s),
            predictor_timing_s=dict(self._predictor_timing_s),
        )


def _least(costs: NDArray[np.float32]) -> int:
    """Return the index of the least finite cost; NaN would win a plain argmin."""
    finite = np.isfinite(costs)
    if not finite.any():
        raise PlanError(
            f"expected at least one finite cost, got NaN or infinity for all {len(costs)} candidates; "
            "the checkpoint is broken or does not fit this scene"
        )
    return int(np.argmin(np.where(finite, costs, np.inf)))


def _check(prediction: Prediction, candidates: NDArray[np.float32]) -> None:
    n, horizon = candidates.shape[:2]
    k = len(prediction.best)
    if prediction.costs.shape != (n,) or prediction.videos.shape[:2] != (k, horizon):
        raise PredictorError(
            f"expected {n} costs and videos of {horizon} frames, got costs {prediction.costs.shape} and "
            f"videos {prediction.videos.shape} for {k} candidates"
        )
    if any(not 0 <= best < n for best in prediction.best.tolist()):
        raise PredictorError(f"expected the best of {n} candidates, got the indices {prediction.best.tolist()}")
