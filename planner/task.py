"""The closed control loop of a task: plan, execute a few actions, observe, plan again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from configs.loader import Config
from ghvae_core.predictor import Context, MismatchError, Predictor
from planner.compatibility import check_compatibility
from planner.goal import check_goal, image_distance
from planner.plan import PlanningState
from planner.record import FAILED, GOAL_SEEN, INTERRUPTED, SETTLED, STEPS_USED, SUCCESS, EpisodeHistory, PlanRecord
from planner.solver import Solver
from robot_bridge.robot import OPEN, Observation, Robot

if TYPE_CHECKING:
    from robot_bridge.simulation.success import TaskSuccess

_MOVED_M = 0.01  # of an applied translation: the hand has moved; ours


class TaskConfig(Config):
    """Scene of a task and the conditions that end it."""

    renamed_keys: ClassVar[Mapping[str, str]] = {
        "least_difference": "min_goal_distance",
        "surprise": "max_error_ratio",
    }
    renamed_values: ClassVar[Mapping[str, Mapping[str, str]]] = {"split": {"unseen": "test"}}

    scene: Literal["pick_wipe", "pick_sweep"]  # scene of the simulation; paper Fig. 2
    split: Literal["train", "test"] = "test"  # of the simulated objects; paper E.1: unseen in training
    n_steps: int = Field(default=50, ge=1)  # most actions of one episode; paper E.1
    max_error_ratio: float | None = Field(
        default=None, gt=0
    )  # prediction error over the model's validation error; above it, replan at once; None: off; ours
    stop_after_holds: int = Field(
        default=0, ge=0
    )  # successive plans that gain little over holding still, after which it ends; 0: off; 2 on a real robot; ours
    stop_gain: float = Field(default=0.2, ge=0, lt=1)  # largest relative gain of such a plan; ours, measured
    min_goal_distance: float = Field(default=2.0, ge=0, lt=255)  # RMS of 255; a smaller one is camera noise; ours


class TaskController:
    """Runs one episode of a task. As a context manager, it holds the arm when an error leaves the block.

    Raises:
        MismatchError: From the constructor, where robot, predictor and planner are not compatible. Nothing moved.
    """

    def __init__(self, config: TaskConfig, robot: Robot, predictor: Predictor, solver: Solver) -> None:
        check_compatibility(robot.spec, predictor.spec, solver.config)
        if config.max_error_ratio is not None and predictor.spec.val_rmse_p95 is None:
            raise MismatchError(
                f"task.max_error_ratio: expected a predictor with a validation error, got '{predictor.spec.name}' "
                "without one (checkpoints trained by this version have it); leave task.max_error_ratio out"
            )
        self._config = config
        self._robot = robot
        self._predictor = predictor
        self._solver = solver

    def begin(self, observation: Observation, goal: NDArray[np.uint8], rng: np.random.Generator) -> None:
        """Start an episode with a robot that has been reset: it rests and its gripper is open.

        Args:
            observation: The present.
            goal: (64, 64, 3) uint8 RGB.
            rng: Draws the candidates.

        Raises:
            GoalError: The goal shows nothing, or the present scene. Nothing moved.
        """
        self.history = EpisodeHistory(goal, self._robot.spec.camera.crop, observation)
        check_goal(goal, self.history.start.frame, self._config.min_goal_distance)
        self._rng = rng
        self._actions = np.empty((0, 4), np.float32)  # of the current plan
        self._executed = 0  # how many of them
        self._replan_now = False
        self._began_s = time.monotonic()

    def __enter__(self) -> TaskController:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._note_time()
        if error is not None:
            self.history.ended = INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
            self.history.error = str(error) or type(error).__name__
            self._robot.close()

    @property
    def ended(self) -> bool:
        """Whether the episode has ended."""
        return bool(self.history.ended)

    def advance(self) -> None:
        """Execute one action, after planning when a plan is due. Blocks until the arm rests.

        After a plan that gains as little over holding still as those before it, the episode ends without an action.

        Raises:
            PredictorError: No usable prediction. The arm holds.
            PlanError: No usable candidate. The arm holds.
            RobotError: The arm or its camera failed. The arm holds.
        """
        is_due = self._executed >= min(len(self._actions), self._solver.config.replan_every)
        if is_due or self._replan_now:
            self._plan(is_early=not is_due)
            if self._is_settled():
                self.history.ended = SETTLED
                return
        action = self._actions[self._executed]
        started_s = time.monotonic()
        step = self._robot.step(action)
        self._executed += 1
        self.history.add_step(action, step, time.monotonic() - started_s)
        self._note_time()
        self._replan_now = self._exceeds_error()
        if self.history.steps[-1].after.goal_distance < self._config.min_goal_distance:
            self.history.ended = GOAL_SEEN
        elif len(self.history.steps) >= self._config.n_steps:
            self.history.ended = STEPS_USED

    def add_outcome(self, outcome: TaskSuccess) -> None:
        """Record the result of the success test; success ends the episode."""
        self.history.outcome = outcome
        if outcome.strict:
            self.history.ended = SUCCESS

    def _note_time(self) -> None:
        self.history.seconds = time.monotonic() - self._began_s

    def _plan(self, *, is_early: bool) -> None:
        started_s = time.monotonic()
        state = self._planning_state()
        observe_s = time.monotonic() - started_s
        plan = self._solver.plan(state, self._predictor, self._rng)
        latency_s = {"observe": observe_s, **plan.timing_s}
        self.history.plans.append(PlanRecord(len(self.history.steps), plan, latency_s, is_early))
        self._actions, self._executed, self._replan_now = plan.actions, 0, False

    def _is_settled(self) -> bool:
        """Return whether the last plans gained little over holding still, all since the hand first moved."""
        n, steps = self._config.stop_after_holds, self.history.steps
        moved = (step for step, each in enumerate(steps, 1) if np.linalg.norm(each.applied[:3]) > _MOVED_M)
        since = next(moved, len(steps) + 1)
        plans = [each.plan for each in self.history.plans if each.step >= since][-n:] if n else []
        return 0 < n == len(plans) and all(plan.gain <= self._config.stop_gain for plan in plans)

    def _exceeds_error(self) -> bool:
        """Return whether the last prediction error exceeds the validation error by more than the configured ratio."""
        ratio, expected = self._config.max_error_ratio, self._predictor.spec.val_rmse_p95
        predicted = self.history.plans[-1].plan.predicted_frames
        if ratio is None or expected is None or self._executed > min(len(expected), len(predicted)):
            return False
        error = image_distance(self.history.steps[-1].after.frame, predicted[self._executed - 1])
        return error > ratio * 255 * expected[self._executed - 1]

    def _planning_state(self) -> PlanningState:
        """Return the input of the next plan. The arm rested before its first action: the first frame is repeated."""
        history, n = self.history, self._predictor.spec.n_context
        gripper = float(history.steps[-1].applied[3]) if history.steps else OPEN
        hold = np.array([0.0, 0.0, 0.0, OPEN], np.float32)
        frames = [history.start.frame] * n + history.frames
        actions = [hold] * n + [step.applied for step in history.steps]
        return PlanningState(
            observation=history.observed[-1].observation,
            context=Context(
                np.stack(frames[-n:]), np.array(actions[len(actions) - n + 1 :], np.float32).reshape(-1, 4)
            ),
            goal=history.goal,
            gripper=gripper,
            rest=self._actions[self._executed :],
        )
