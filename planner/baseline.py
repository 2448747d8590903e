"""Predictors that know nothing, to tell what planning owes to imagination."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from ghvae_core.cost import goal_costs
from ghvae_core.predictor import TERMS, Context, GoalCost, Prediction, PredictorSpec, Request
from robot_bridge.camera import MODEL_IMAGE_PX
from robot_bridge.robot import ACTION_DIM, RobotSpec

_MOST = 100_000  # candidates and actions of one request; a bound that nothing reaches


class CopyPredictor:
    """Imagines that the last frame stays, whatever is done: all candidates cost the same, and the arm holds still."""

    name = "copy"

    def __init__(self, robot: RobotSpec, cost: GoalCost) -> None:
        self._cost = cost
        self.spec = PredictorSpec(
            name=self.name,
            image_px=MODEL_IMAGE_PX,
            action_dim=ACTION_DIM,
            step_limit_m=robot.limits.step_limit_m,
            step_s=robot.step_s,
            n_context=1,
            max_horizon=_MOST,
            max_candidates=_MOST,
            checkpoint="",
            terms=TERMS,
        )

    def predict(
        self, context: Context, candidates: NDArray[np.float32], goal: NDArray[np.uint8], n_videos: int
    ) -> Prediction:
        """Repeat the last frame for every candidate, and weigh that."""
        Request(context, candidates, goal, n_videos, self._cost).check(self.spec)
        started_s = time.monotonic()
        n, horizon = candidates.shape[:2]
        last, aim = (image / np.float32(255) for image in (context.frames[-1], goal))
        (cost,) = goal_costs(last[None, None], aim, GoalCost(brightness=self._cost.brightness))
        costs = self._costs(float(cost), n)
        best = np.argsort(costs, kind="stable")[:n_videos]
        videos = np.broadcast_to(context.frames[-1], (len(best), horizon, *goal.shape)).copy()
        return Prediction(costs, best, videos, {"copy": time.monotonic() - started_s})

    def close(self) -> None:
        """Do nothing; there is nothing to let go of."""

    def _costs(self, cost: float, n: int) -> NDArray[np.float32]:
        return np.full(n, cost, np.float32)


class RandomPredictor(CopyPredictor):
    """Imagines as little, and prefers at random: what is executed is a proposal like any other."""

    name = "random"

    def __init__(self, robot: RobotSpec, cost: GoalCost, rng: np.random.Generator) -> None:
        super().__init__(robot, cost)
        self._rng = rng

    def _costs(self, cost: float, n: int) -> NDArray[np.float32]:
        return np.asarray(cost * self._rng.random(n), np.float32)
