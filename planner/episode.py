"""One attempt at a task: the parts are built here from the configuration, handed to each other, and let go of."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from planner.config import load_run
from planner.goal import GoalError, load_goal, scripted_goal
from planner.output_folder import RecordError, RunFolder
from planner.predictors import EpisodeRequest, check_checkpoint, open_predictor
from planner.proposals import Proposals
from planner.record import EpisodeDescription, EpisodeHistory
from planner.solver import Solver
from planner.task import TaskController
from robot_bridge.camera import model_image
from robot_bridge.factory import open_robot
from robot_bridge.robot import Robot

if TYPE_CHECKING:
    from robot_bridge.simulation.franka import SimulatedFranka
    from robot_bridge.simulation.success import TaskSuccess


def run_episode(request: EpisodeRequest, overrides: Sequence[str]) -> None:
    """Do a task once, print the result, and leave its folder.

    Raises:
        ReportedError: The input was refused and nothing was written, or a part failed on the way, after which the arm
            was held and the folder written.
    """
    if request.goal is None and request.robot != "simulation":
        raise GoalError("--goal: expected a goal picture, as no scripted arm can make one here; take one with run_goal")
    config = load_run(request.task_file, overrides, request.robot)
    goal = load_goal(request.goal, config.robot.camera) if request.goal else None
    check_checkpoint(request)
    folder = RunFolder(request.out or _own_folder(request))
    with ExitStack() as stack:
        robot = stack.enter_context(closing(open_robot(config.robot)))
        predictor = stack.enter_context(open_predictor(request, config, robot))
        proposals = Proposals(config.policy, config.difference, robot.spec)
        task = TaskController(config.task, robot, predictor, Solver(config.planner, proposals))
        scene_rng, plan_rng = np.random.default_rng(request.seed).spawn(2)
        observation = robot.reset(scene_rng)
        if goal is None:
            goal = model_image(scripted_goal(_simulated(robot), request.seed), robot.spec.camera.crop)
        task.begin(observation, goal, plan_rng)
        task.history.outcome = _outcome(request, robot)  # known even if the first plan fails
        folder.make(config, may_exist=request.out is not None)
        description = EpisodeDescription.of(request.task_name, request.robot, predictor.spec, request.seed)
        try:
            with task:
                _drive(task, lambda: _outcome(request, robot), config.task.n_steps)
        finally:
            lost = folder.leave(task.history, description, robot.spec)
            if lost and task.history.error:  # which is what ended the run, and stays the error that is reported
                print(lost, file=sys.stderr)
        if lost:
            raise RecordError(lost)


def _own_folder(request: EpisodeRequest) -> Path:
    """Return the folder of a run that begins now, where none was named."""
    began = time.strftime("%Y%m%d_%H%M%S")
    return Path("runs") / f"{request.task_name}_{request.predictor}_{began}_seed{request.seed}"


def _simulated(robot: Robot) -> SimulatedFranka:
    from robot_bridge.simulation.franka import SimulatedFranka  # noqa: PLC0415 - MuJoCo, which a real arm does without

    assert isinstance(robot, SimulatedFranka)  # noqa: S101 - asked where `--robot simulation` was chosen
    return robot


def _outcome(request: EpisodeRequest, robot: Robot) -> TaskSuccess | None:
    """Return what the simulation says of the task; None where there is none to ask."""
    return _simulated(robot).task_success() if request.robot == "simulation" else None


def _drive(task: TaskController, outcome_now: Callable[[], TaskSuccess | None], n_steps: int) -> None:
    """Advance until the run is over, showing on standard error how it goes."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[distance]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("acting", total=n_steps, distance="")
        n_plans = 0
        while not task.ended:
            task.advance()
            outcome = outcome_now()
            if outcome:
                task.add_outcome(outcome)
            history = task.history
            if len(history.plans) > n_plans:
                n_plans = len(history.plans)
                progress.console.print(_describe(history), highlight=False)
            progress.update(bar, advance=1, distance=f"goal {history.steps[-1].after.distance:.1f} of 255 away")


def _describe(history: EpisodeHistory) -> str:
    record = history.plans[-1]
    plan, seconds = record.plan, sum(record.latency_s.values())
    return f"step {record.step}: {plan.family}, cost {plan.cost:.5f}, the best of {len(plan.costs)} in {seconds:.2f} s"
