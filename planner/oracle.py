"""A predictor that is never wrong: the simulator itself, so that a failed task is the planner's fault alone."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from configs.interruption import check
from ghvae_core.goal_cost import GoalCost, pixel_cost
from ghvae_core.predictor import Context, Prediction, PredictionRequest, PredictorSpec
from robot_bridge.camera import MODEL_IMAGE_PX, model_image
from robot_bridge.robot import ACTION_DIM, RobotFault
from robot_bridge.simulation.franka import SimulatedFranka, Snapshot
from robot_bridge.simulation.scene import Scene

if TYPE_CHECKING:
    from ghvae_core.goal_cost import GoalCostEvaluator

_MOST = 100_000  # candidates and actions of one request; a bound that nothing reaches


class OraclePredictor:
    """Tries every candidate on copies of the simulated robot, which itself is left as it is.

    A candidate on which the arm would stop itself costs infinitely much.

    Args:
        robot: The robot.
        cost: How the end is weighed.
        n_twins: Copies that work at a time.
        evaluator: Of terms other than pixels; None: pixels alone.
    """

    def __init__(
        self, robot: SimulatedFranka, cost: GoalCost, n_twins: int = 2, evaluator: GoalCostEvaluator | None = None
    ) -> None:
        self._robot = robot
        self._evaluator = evaluator
        self._cost = cost
        self._n_twins = n_twins
        self._lanes: list[_Lane] = []
        self._scene: Scene | None = None  # of the lanes
        self._spec = PredictorSpec(
            name="oracle",
            image_px=MODEL_IMAGE_PX,
            action_dim=ACTION_DIM,
            step_limit_m=robot.spec.limits.step_limit_m,
            step_s=robot.spec.step_s,
            n_context=2,  # as the model has; the simulator needs none
            max_horizon=_MOST,
            max_candidates=_MOST,
            checkpoint="" if evaluator is None else evaluator.checkpoint_sha256,  # whose features count
            terms=("pixel",) if evaluator is None else evaluator.terms,
            distance="" if evaluator is None else evaluator.distance_sha256,
        )

    @property
    def spec(self) -> PredictorSpec:
        """What this predictor can do; the context is not looked at."""
        return self._spec

    def predict(
        self, context: Context, candidates: NDArray[np.float32], goal: NDArray[np.uint8], n_videos: int
    ) -> Prediction:
        """Execute every candidate on a twin and weigh what its camera sees against the goal."""
        PredictionRequest(context, candidates, goal, n_videos, self._cost).check(self._spec)
        started_s = time.monotonic()
        snapshot = self._robot.snapshot()
        self._follow(snapshot)
        ends = self._rollouts(snapshot, candidates, self._cost.final_frames)
        costs = np.array([self._weigh(end, goal) for end in ends], np.float32)
        tried_s = time.monotonic()
        best = np.argsort(costs, kind="stable")[:n_videos]
        best = best[np.isfinite(costs[best])]
        horizon = candidates.shape[1]
        videos = [video for video in self._rollouts(snapshot, candidates[best], horizon) if video is not None]
        filmed_s = time.monotonic()
        return Prediction(
            costs=costs,
            best=best,
            videos=np.array(videos, np.uint8).reshape(len(best), horizon, *goal.shape),
            timing_s={"rollouts": tried_s - started_s, "videos": filmed_s - tried_s},
        )

    def close(self) -> None:
        """Stop trying; what is under way ends with its present candidate."""
        for lane in self._lanes:
            lane.close()
        self._lanes = []

    def _follow(self, snapshot: Snapshot) -> None:
        """Make new twins when the robot has been reset into a new scene."""
        if self._lanes and self._scene is snapshot.scene:
            return
        self.close()
        self._scene = snapshot.scene
        self._lanes = [_Lane(self._robot) for _ in range(self._n_twins)]

    def _rollouts(
        self, snapshot: Snapshot, candidates: NDArray[np.float32], n_frames: int
    ) -> list[NDArray[np.uint8] | None]:
        """Return the last `n_frames` model images of each candidate, (n_frames, 64, 64, 3), or None for a fault."""
        turns = [
            self._lanes[i % self._n_twins].submit(snapshot, candidates[i], n_frames) for i in range(len(candidates))
        ]
        try:
            ends = []
            for turn in turns:
                check()
                ends.append(turn.result())
            return ends
        finally:
            for turn in turns:  # after Ctrl-C, nobody waits for the rest
                turn.cancel()

    def _weigh(self, end: NDArray[np.uint8] | None, goal: NDArray[np.uint8]) -> float:
        if end is None:
            return float("inf")
        if self._evaluator is None:
            return float(pixel_cost(end[None] / np.float32(255), goal / np.float32(255), self._cost)[0])
        return float(self._evaluator.costs_of_images(end[None], goal, self._cost)[0])


class _Lane:
    """A twin of the robot and the only thread that touches it: a renderer belongs to the thread that made it."""

    def __init__(self, robot: SimulatedFranka) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._robot = robot
        self._crop = robot.spec.camera.crop
        self._twin = self._thread.submit(robot.twin).result()

    def submit(
        self, snapshot: Snapshot, actions: NDArray[np.float32], n_frames: int
    ) -> Future[NDArray[np.uint8] | None]:
        """Try a candidate when those before it are done."""
        return self._thread.submit(self._rollout, snapshot, actions, n_frames)

    def close(self) -> None:
        """Close the twin where it was made."""
        self._thread.submit(self._twin.close).result()
        self._thread.shutdown()

    def _rollout(self, snapshot: Snapshot, actions: NDArray[np.float32], n_frames: int) -> NDArray[np.uint8] | None:
        self._twin.restore(snapshot)
        frames = []
        for t, action in enumerate(actions):
            try:
                self._twin.advance(action)
            except RobotFault:
                self._twin.close()
                self._twin = self._robot.twin()  # a fault leaves its marks in the physics
                return None
            if t >= len(actions) - n_frames:
                frames.append(model_image(self._twin.render(), self._crop))
        return np.stack(frames)
