"""Random shooting: imagine many candidates, execute the one that ends closest to the goal (paper E.1)."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from configs.loader import Config
from ghvae_core.predictor import GoalCost, Prediction, Predictor, PredictorError
from planner.plan import Plan, PlanError, Situation
from planner.proposals import Proposals


class ShootingConfig(Config):
    """How many candidates are compared, and how far they reach."""

    n_candidates: int = Field(default=200, ge=4)  # VP2 and Visual Foresight; the paper does not say
    horizon: int = Field(default=10, ge=1)  # actions of one candidate; paper E.1
    replan_every: int = Field(default=5, ge=1)  # actions executed of each plan; ours
    predict_timeout_s: float = Field(default=60.0, gt=0, le=60)  # longest wait for a server; ours
    n_videos: int = Field(default=4, ge=1)  # imagined videos kept of each plan, for the report; ours
    cost: GoalCost = GoalCost()  # how the end is weighed; handed to the predictor

    @model_validator(mode="after")
    def _check_horizon(self) -> ShootingConfig:
        for name, value in (("replan_every", self.replan_every), ("cost.final_frames", self.cost.final_frames)):
            if value > self.horizon:
                raise ValueError(f"{name} ({value}) must not be above horizon ({self.horizon})")
        return self


class RandomShooting:
    """Chooses the candidate of least cost. The same seed gives the same plan."""

    def __init__(self, config: ShootingConfig, proposals: Proposals) -> None:
        self.config = config
        self._proposals = proposals

    def plan(self, situation: Situation, predictor: Predictor, rng: np.random.Generator) -> Plan:
        """Propose, imagine, and choose. Of equal costs the first candidate wins, which is to hold still.

        Raises:
            PredictorError: No answer came, or one of the wrong shape.
            PlanError: No candidate has a finite cost.
        """
        config = self.config
        started_s = time.monotonic()
        candidates = self._proposals.draw(situation, config.n_candidates, config.horizon, rng)
        proposed_s = time.monotonic()
        n_videos = min(config.n_videos, config.n_candidates)
        prediction = predictor.predict(situation.context, candidates.actions, situation.goal, n_videos)
        predicted_s = time.monotonic()
        _check(prediction, candidates.actions)
        index = _least(prediction.costs)
        usable = np.isfinite(prediction.costs[prediction.best])
        return Plan(
            actions=candidates.actions[index],
            cost=float(prediction.costs[index]),
            index=index,
            families=candidates.families,
            costs=prediction.costs,
            best=[int(best) for best in prediction.best[usable]],
            videos=prediction.videos[usable],
            timing_s={"propose": proposed_s - started_s, "predict": predicted_s - proposed_s},
            predictor_timing_s=dict(prediction.timing_s),
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
