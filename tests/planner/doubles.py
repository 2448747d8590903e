"""Minimal robot and predictor, for tests that need neither physics nor a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from data_collection.policies.random_policy import PolicyConfig
from ghvae_core.predictor import Context, Prediction, PredictorSpec
from planner.plan import PlanningState
from planner.proposals import DifferenceConfig, Proposals
from planner.solver import Solver, SolverConfig
from robot_bridge.camera import Camera, model_image
from robot_bridge.robot import Observation, RobotFault, RobotSpec, Step
from robot_bridge.safety import MotionLimits, limit_action

SPEC = RobotSpec(
    name="franka",
    limits=MotionLimits(workspace_low_m=(0.34, -0.23, 0.012), workspace_high_m=(0.66, 0.23, 0.22), step_limit_m=0.2),
    camera=Camera(
        height_px=240, width_px=320, position_m=(0.885, 0.0, 0.495), target_m=(0.445, 0.0, 0.055), fovy_rad=0.84
    ),
    step_s=0.6,
)
PREDICTOR_SPEC = PredictorSpec(
    name="stub",
    image_px=64,
    action_dim=4,
    step_limit_m=0.2,
    step_s=0.6,
    n_context=2,
    max_horizon=10,
    max_candidates=200,
    checkpoint="abc",
)
GOAL_M = np.array([0.6, 0.15, 0.1])

Costs = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def camera_view(hand_m: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return a camera image (240, 320, 3): a bright square where the hand is, on grey."""
    image = np.full((240, 320, 3), 90, np.uint8)
    x, y = (int(v) for v in SPEC.camera.project(hand_m[None])[0])
    image[max(0, y - 24) : y + 24, max(0, x - 24) : x + 24] = (230, 230, 240)
    return image


GOAL = model_image(camera_view(GOAL_M))


class FakeRobot:
    """A hand that moves exactly within the limits, in an empty bin; faults at a given step."""

    def __init__(self, fault_at_step: int | None = None) -> None:
        self.spec = SPEC
        self.steps: list[NDArray[np.float32]] = []
        self.closed = False
        self._fault_at_step = fault_at_step
        self._state = np.array([0.45, -0.1, 0.15, 0.0, 1.0])

    def reset(self, rng: np.random.Generator) -> Observation:
        return self.observe()

    def observe(self) -> Observation:
        return Observation(camera_view(self._state[:3]), self._state.copy(), 0.6 * len(self.steps))

    def step(self, action: NDArray[np.float32]) -> Step:
        assert not self.closed, "moved after close"
        if len(self.steps) == self._fault_at_step:
            raise RobotFault("reflex")
        applied = limit_action(action, self._state[:3], self.spec.limits)
        self._state[:3] += applied[:3]
        self._state[4] = 0.0 if applied[3] > 0 else 1.0
        self.steps.append(applied)
        return Step(applied, self.observe())

    def recover(self) -> None:
        self._fault_at_step = None

    def close(self) -> None:
        self.closed = True


class StubPredictor:
    """Costs from a function of the candidates; records its requests."""

    def __init__(self, costs: Costs, spec: PredictorSpec = PREDICTOR_SPEC) -> None:
        self.spec = spec
        self.requests: list[tuple[Context, NDArray[np.float32]]] = []
        self._costs = costs

    def predict(
        self, context: Context, candidates: NDArray[np.float32], goal: NDArray[np.uint8], n_videos: int
    ) -> Prediction:
        self.requests.append((context, candidates))
        costs = self._costs(candidates).astype(np.float32)
        best = np.argsort(np.where(np.isfinite(costs), costs, np.inf), kind="stable")[:n_videos]
        videos = np.broadcast_to(context.frames[-1], (len(best), candidates.shape[1], 64, 64, 3)).copy()
        return Prediction(costs, best, videos, {"rollout": 0.001})

    def close(self) -> None:
        pass


def towards_goal(candidates: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the distance of each candidate's end to the goal, from the start."""
    missed = candidates[:, :, :3].sum(1) - (GOAL_M - [0.45, -0.1, 0.15])
    return np.asarray(np.linalg.norm(missed, axis=1), np.float32)


def solver(n_candidates: int = 40, horizon: int = 5, replan_every: int = 2, **changes: object) -> Solver:
    """Return a solver for the fake robot; random shooting by default."""
    settings = {"n_candidates": n_candidates, "horizon": horizon, "replan_every": replan_every, **changes}
    return Solver(SolverConfig.model_validate(settings), Proposals(PolicyConfig(), DifferenceConfig(), SPEC))


def planning_state() -> PlanningState:
    """Return the start of the fake robot, before the first plan."""
    observation = FakeRobot().observe()
    frame = model_image(observation.image)
    context = Context(np.stack([frame, frame]), np.array([[0, 0, 0, -1]], np.float32))
    return PlanningState(observation, context, GOAL, -1.0, np.empty((0, 4), np.float32))


def with_rest(rest: NDArray[np.float32]) -> PlanningState:
    """Return the start, with `rest` of a previous plan."""
    return replace(planning_state(), rest=rest)
