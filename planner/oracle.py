"""Ground-truth predictor: rolls candidates out in the simulator, so that a failed task is due to planning alone."""

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

_MOST_VIDEOS = 8  # of one request: each takes another rollout; ours
_UNLIMITED = 100_000  # candidates and actions of one request, without a limit of its own


class OraclePredictor:
    """Executes every candidate on copies of the simulated robot; the robot itself is not changed.

    A candidate on which the arm would fault has an infinite cost.

    Args:
        robot: The simulated robot.
        cost: Goal cost of the last frames.
        n_twins: Number of copies, which work in parallel.
        evaluator: Evaluates a cost that uses networks; None: pixels alone.
    """

    def __init__(
        self, robot: SimulatedFranka, cost: GoalCost, n_twins: int = 2, evaluator: GoalCostEvaluator | None = None
    ) -> None:
        self._robot = robot
        self._evaluator = evaluator
        self._cost = cost
        self._n_twins = n_twins
        self._twins: list[_Twin] = []
        self._scene: Scene | None = None  # of the twins
        self._spec = PredictorSpec(
            name="oracle",
            image_px=MODEL_IMAGE_PX,
            action_dim=ACTION_DIM,
            step_limit_m=robot.spec.limits.step_limit_m,
            step_s=robot.spec.step_s,
            n_context=2,  # as for the model; the simulator needs none
            max_horizon=_UNLIMITED,
            max_candidates=_UNLIMITED,
            checkpoint=""
            if evaluator is None
            else evaluator.checkpoint_sha256,  # of the network whose features the cost uses
            terms=("pixel",) if evaluator is None else evaluator.terms,
            distance="" if evaluator is None else evaluator.distance_sha256,
        )

    @property
    def spec(self) -> PredictorSpec:
        """Specification of this predictor. The context of a request is not used."""
        return self._spec

    def predict(
        self, context: Context, candidates: NDArray[np.float32], goal: NDArray[np.uint8], n_videos: int
    ) -> Prediction:
        """Execute every candidate on a twin and return the goal costs of its images; see `Predictor.predict`.

        At most 8 videos are returned.
        """
        PredictionRequest(context, candidates, goal, n_videos, self._cost).check(self._spec)
        started_s = time.monotonic()
        snapshot = self._robot.snapshot()
        self._match_scene(snapshot)
        ends = self._rollouts(snapshot, candidates, self._cost.final_frames)
        costs = np.array([self._cost_of(end, goal) for end in ends], np.float32)
        rolled_out_s = time.monotonic()
        best = np.argsort(costs, kind="stable")[: min(n_videos, _MOST_VIDEOS)]
        best = best[np.isfinite(costs[best])]
        horizon = candidates.shape[1]
        videos = [video for video in self._rollouts(snapshot, candidates[best], horizon) if video is not None]
        rendered_s = time.monotonic()
        return Prediction(
            costs=costs,
            best=best,
            videos=np.array(videos, np.uint8).reshape(len(best), horizon, *goal.shape),
            timing_s={"rollouts": rolled_out_s - started_s, "videos": rendered_s - rolled_out_s},
        )

    def close(self) -> None:
        """Close the twins, after the candidates in execution."""
        for twin in self._twins:
            twin.close()
        self._twins = []

    def _match_scene(self, snapshot: Snapshot) -> None:
        """Make new twins where the robot has been reset to a new scene."""
        if self._twins and self._scene is snapshot.scene:
            return
        self.close()
        self._scene = snapshot.scene
        self._twins = [_Twin(self._robot) for _ in range(self._n_twins)]

    def _rollouts(
        self, snapshot: Snapshot, candidates: NDArray[np.float32], n_frames: int
    ) -> list[NDArray[np.uint8] | None]:
        """Return the last `n_frames` model images of each candidate, (n_frames, 64, 64, 3), or None for a fault."""
        futures = [
            self._twins[i % self._n_twins].submit(snapshot, candidates[i], n_frames) for i in range(len(candidates))
        ]
        try:
            ends = []
            for future in futures:
                check()
                ends.append(future.result())
            return ends
        finally:
            for future in futures:  # after an interrupt, the rest is not needed
                future.cancel()

    def _cost_of(self, end: NDArray[np.uint8] | None, goal: NDArray[np.uint8]) -> float:
        """Return the cost of the last frames (n, 64, 64, 3) of one candidate; infinity after a fault."""
        if end is None:
            return float("inf")
        if self._evaluator is None:
            return float(pixel_cost(end[None] / np.float32(255), goal / np.float32(255), self._cost)[0])
        return float(self._evaluator.costs_of_images(end[None], goal, self._cost)[0])


class _Twin:
    """A copy of the robot and the one thread that uses it: a renderer is bound to the thread that created it."""

    def __init__(self, robot: SimulatedFranka) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._robot = robot
        self._crop = robot.spec.camera.crop
        self._robot_copy = self._thread.submit(robot.twin).result()

    def submit(
        self, snapshot: Snapshot, actions: NDArray[np.float32], n_frames: int
    ) -> Future[NDArray[np.uint8] | None]:
        """Queue the rollout of one candidate."""
        return self._thread.submit(self._rollout, snapshot, actions, n_frames)

    def close(self) -> None:
        """Close the copy in its own thread."""
        self._thread.submit(self._robot_copy.close).result()
        self._thread.shutdown()

    def _rollout(self, snapshot: Snapshot, actions: NDArray[np.float32], n_frames: int) -> NDArray[np.uint8] | None:
        self._robot_copy.restore(snapshot)
        frames = []
        for t, action in enumerate(actions):
            try:
                self._robot_copy.advance(action)
            except RobotFault:
                self._robot_copy.close()
                self._robot_copy = self._robot.twin()  # a fault leaves a state that cannot be restored
                return None
            if t >= len(actions) - n_frames:
                frames.append(model_image(self._robot_copy.render(), self._crop))
        return np.stack(frames)
