"""Runs one episode of a task: builds robot, predictor and planner, runs the control loop, and writes the record."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from configs.progress import ProgressBar
from planner.config import load_run
from planner.goal import GoalError, load_goal, scripted_goal
from planner.options import PredictorChoice, task_file, task_name
from planner.output_folder import RecordError, RunFolder
from planner.predictors import check_checkpoint, open_predictor
from planner.proposals import Proposals
from planner.record import EpisodeDescription, EpisodeHistory
from planner.solver import Solver
from planner.task import TaskController
from robot_bridge.camera import model_image
from robot_bridge.factory import RobotName, open_robot
from robot_bridge.robot import Robot

if TYPE_CHECKING:
    from robot_bridge.simulation.franka import SimulatedFranka
    from robot_bridge.simulation.success import TaskSuccess


@dataclass(frozen=True)
class EpisodeRequest:
    """One episode, as the command line describes it."""

    task: str  # name, or YAML file
    robot: RobotName
    predictor: PredictorChoice
    seed: int  # of the scene and the candidates
    goal: Path | None = None  # goal image; None: the scripted policy makes it, in simulation
    out: Path | None = None  # folder of the record; None: a new one in runs/

    @property
    def task_name(self) -> str:
        """Name of the task."""
        return task_name(self.task)


def run_episode(request: EpisodeRequest, overrides: Sequence[str]) -> None:
    """Run one episode, print its result, and write its folder.

    Args:
        request: The episode.
        overrides: Of the configuration, as after `--set`.

    Raises:
        ReportedError: The input was refused and nothing was written; or a component failed later, after which the arm
            holds and the folder is written.
    """
    if request.goal is None and request.robot != "simulation":
        raise GoalError("--goal: expected a goal image, which only the simulation can do without; make one by run_goal")
    config = load_run(task_file(request.task), overrides, request.robot)
    goal = load_goal(request.goal, config.robot.camera) if request.goal else None
    check_checkpoint(request.predictor)
    folder = RunFolder(request.out or _default_folder(request))
    with ExitStack() as stack:
        robot = stack.enter_context(closing(open_robot(config.robot)))
        predictor = stack.enter_context(open_predictor(request.predictor, config, robot, request.seed))
        proposals = Proposals(config.policy, config.difference, robot.spec)
        task = TaskController(config.task, robot, predictor, Solver(config.planner, proposals))
        scene_rng, plan_rng = np.random.default_rng(request.seed).spawn(2)
        observation = robot.reset(scene_rng)
        if goal is None:
            goal = model_image(scripted_goal(_simulated(robot), request.seed), robot.spec.camera.crop)
        task.begin(observation, goal, plan_rng)
        task.history.outcome = _outcome(request, robot)  # known even if the first plan fails
        folder.create(config, may_exist=request.out is not None)
        description = EpisodeDescription.of(request.task_name, request.robot, predictor.spec, request.seed)
        try:
            with task:
                _run_loop(task, lambda: _outcome(request, robot), config.task.n_steps)
        finally:
            lost = folder.write_record(task.history, description, robot.spec)
            if lost and task.history.error:  # the error that ended the episode is the one that is raised
                print(lost, file=sys.stderr)
        if lost:
            raise RecordError(lost)


def _default_folder(request: EpisodeRequest) -> Path:
    """Return a folder in runs/, named after task, predictor, time and seed."""
    started = time.strftime("%Y%m%d_%H%M%S")
    return Path("runs") / f"{request.task_name}_{request.predictor.name}_{started}_seed{request.seed}"


def _simulated(robot: Robot) -> SimulatedFranka:
    from robot_bridge.simulation.franka import SimulatedFranka  # noqa: PLC0415 - MuJoCo, which a real arm does without

    assert isinstance(robot, SimulatedFranka)  # noqa: S101 - called with `--robot simulation` only
    return robot


def _outcome(request: EpisodeRequest, robot: Robot) -> TaskSuccess | None:
    """Return the result of the simulation's success test; None for a real robot."""
    return _simulated(robot).task_success() if request.robot == "simulation" else None


def _run_loop(task: TaskController, outcome_now: Callable[[], TaskSuccess | None], n_steps: int) -> None:
    """Execute actions until the episode ends; show the progress on standard error."""
    with ProgressBar("actions", n_steps) as progress:
        n_plans = 0
        while not task.ended:
            task.advance()
            outcome = outcome_now()
            if outcome:
                task.add_outcome(outcome)
            history = task.history
            if len(history.plans) > n_plans:
                n_plans = len(history.plans)
                progress.say(_describe_plan(history))
            progress.advance(detail=f"goal distance {history.steps[-1].after.goal_distance:.1f} of 255")


def _describe_plan(history: EpisodeHistory) -> str:
    """Return one line on the last plan."""
    record = history.plans[-1]
    plan, plan_s = record.plan, sum(record.latency_s.values())
    return f"step {record.step}: {plan.family}, cost {plan.cost:.5f}, the best of {len(plan.costs)} in {plan_s:.2f} s"
