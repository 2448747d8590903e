"""The closed loop of one task: plan, execute a few actions, look, plan again."""

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
from planner.goal import check_goal, difference
from planner.plan import PlanningState
from planner.record import FAILED, GOAL_SEEN, INTERRUPTED, STEPS_USED, SUCCESS, EpisodeHistory, PlanRecord
from planner.solver import Solver
from robot_bridge.robot import OPEN, Observation, Robot

if TYPE_CHECKING:
    from robot_bridge.simulation.success import TaskSuccess


class TaskConfig(Config):
    """What is to be done, and for how long it may be tried."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"least_difference": "min_goal_distance"}
    renamed_values: ClassVar[Mapping[str, Mapping[str, str]]] = {"split": {"unseen": "test"}}

    scene: Literal["pick_wipe", "pick_sweep"]  # which scene the simulation sets up; paper Fig. 2
    split: Literal["train", "test"] = "test"  # of the simulated objects; paper E.1: never seen in training
    n_steps: int = Field(default=50, ge=1)  # most actions of one run; paper E.1
    surprise: float | None = Field(default=None, gt=0)  # times the usual error: above, plan again at once; ours
    min_goal_distance: float = Field(default=2.0, ge=0, lt=255)  # root mean square of 255; below: camera noise; ours


class TaskController:
    """One run of a task. A context manager: when an error leaves it, the arm is held before anything is written.

    Raises:
        MismatchError: From the constructor, when robot, predictor and planner do not fit. Nothing moved.
    """

    def __init__(self, config: TaskConfig, robot: Robot, predictor: Predictor, solver: Solver) -> None:
        check_compatibility(robot.spec, predictor.spec, solver.config)
        if config.surprise is not None and predictor.spec.val_rmse_p95 is None:
            raise MismatchError(
                f"task.surprise: expected a predictor that tells how far it usually errs, got '{predictor.spec.name}', "
                "which does not (a checkpoint does that was trained by this version); leave task.surprise out"
            )
        self._config = config
        self._robot = robot
        self._predictor = predictor
        self._solver = solver

    def begin(self, observation: Observation, goal: NDArray[np.uint8], rng: np.random.Generator) -> None:
        """Take the start and the goal of a robot that has been reset: it rests, its gripper is open.

        Args:
            observation: What the robot sees now.
            goal: (64, 64, 3) uint8 RGB.
            rng: Draws the candidates.

        Raises:
            GoalError: The goal cannot be told from the start. Nothing moved.
        """
        self.history = EpisodeHistory(goal, self._robot.spec.camera.crop, observation)
        check_goal(goal, self.history.start.frame, self._config.min_goal_distance)
        self._rng = rng
        self._actions = np.empty((0, 4), np.float32)  # of the present plan
        self._executed = 0  # how many of them
        self._is_surprised = False

    def __enter__(self) -> TaskController:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.history.ended = INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
            self.history.error = str(error) or type(error).__name__
            self._robot.close()

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return bool(self.history.ended)

    def advance(self) -> None:
        """Execute one action, after planning when one is due. Blocks until the arm rests.

        Raises:
            PredictorError: No usable prediction. The arm holds.
            PlanError: No usable candidate. The arm holds.
            RobotError: The arm or its camera failed. The arm holds.
        """
        is_due = self._executed >= min(len(self._actions), self._solver.config.replan_every)
        if is_due or self._is_surprised:
            self._plan(is_early=not is_due)
        action = self._actions[self._executed]
        started_s = time.monotonic()
        step = self._robot.step(action)
        self._executed += 1
        self.history.add_step(action, step, time.monotonic() - started_s)
        self._is_surprised = self._surprises()
        if self.history.steps[-1].after.distance < self._config.min_goal_distance:
            self.history.ended = GOAL_SEEN
        elif len(self.history.steps) >= self._config.n_steps:
            self.history.ended = STEPS_USED

    def add_outcome(self, outcome: TaskSuccess) -> None:
        """Take what the simulation says of the present scene; success ends the run."""
        self.history.outcome = outcome
        if outcome.strict:
            self.history.ended = SUCCESS

    def _plan(self, *, is_early: bool) -> None:
        started_s = time.monotonic()
        state = self._planning_state()
        observe_s = time.monotonic() - started_s
        plan = self._solver.plan(state, self._predictor, self._rng)
        latency_s = {"observe": observe_s, **plan.timing_s}
        self.history.plans.append(PlanRecord(len(self.history.steps), plan, latency_s, is_early))
        self._actions, self._executed, self._is_surprised = plan.actions, 0, False

    def _surprises(self) -> bool:
        """Tell whether what is seen differs from what the plan imagined by more than the model usually errs."""
        factor, usual = self._config.surprise, self._predictor.spec.val_rmse_p95
        imagined = self.history.plans[-1].plan.predicted_frames
        if factor is None or usual is None or self._executed > min(len(usual), len(imagined)):
            return False
        differs = difference(self.history.steps[-1].after.frame, imagined[self._executed - 1])
        return differs > factor * 255 * usual[self._executed - 1]

    def _planning_state(self) -> PlanningState:
        """Return the present; before its first action the arm rested, so the first frame repeated is what was."""
        history, n = self.history, self._predictor.spec.n_context
        gripper = float(history.steps[-1].applied[3]) if history.steps else OPEN
        hold = np.array([0.0, 0.0, 0.0, OPEN], np.float32)
        frames = [history.start.frame] * n + history.frames
        actions = [hold] * n + [act.applied for act in history.steps]
        return PlanningState(
            observation=history.observed[-1].observation,
            context=Context(
                np.stack(frames[-n:]), np.array(actions[len(actions) - n + 1 :], np.float32).reshape(-1, 4)
            ),
            goal=history.goal,
            gripper=gripper,
            rest=self._actions[self._executed :],
        )
