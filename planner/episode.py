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
from numpy.typing import NDArray

from configs.progress import ProgressBar, announce, duration
from planner.config import TaskRunConfig, load_run
from planner.goal import GoalError, goal_file, load_goal, scripted_goal
from planner.goal_checks import file_warnings, scene_warnings
from planner.options import PredictorChoice, task_file, task_name
from planner.output_folder import RecordError, RunFolder
from planner.plan import FAMILY_MEANINGS
from planner.predictors import check_checkpoint, open_predictor
from planner.proposals import Proposals
from planner.questions import ask_is_done, check_terminal
from planner.record import EpisodeDescription, EpisodeHistory
from planner.solver import Solver
from planner.start_scene import StartScene, start_scene
from planner.task import TaskController
from planner.verdict import JudgeError
from robot_bridge.camera import model_image
from robot_bridge.factory import RobotName, open_robot
from robot_bridge.robot import Observation, Robot

if TYPE_CHECKING:
    from robot_bridge.simulation.franka import SimulatedFranka
    from robot_bridge.simulation.success import TaskSuccess

_PLANS_TO_ESTIMATE = 2  # before the time left is shown: the first plan alone says little; ours


@dataclass(frozen=True)
class EpisodeRequest:
    """One episode, as the command line describes it."""

    task: str  # name, or YAML file
    robot: RobotName
    predictor: PredictorChoice
    seed: int  # of the scene and the candidates
    goal: Path | None = None  # goal image, or demo:NAME; None: the scripted policy makes it, in simulation
    out: Path | None = None  # folder of the record; None: a new one in runs/
    strict_goal: bool = False  # refuse a goal image that may be the wrong one
    judge: bool = False  # ask a person at the end whether the task is done

    @property
    def task_name(self) -> str:
        """Name of the task."""
        return task_name(self.task)

    def check(self) -> None:
        """Refuse options that do not fit each other.

        Raises:
            ReportedError: They are refused.
        """
        if self.goal is None and self.robot != "simulation":
            raise GoalError(
                "--goal: expected a goal image, which only the simulation can do without; make one by run_goal"
            )
        if self.judge:
            if self.robot == "simulation":
                raise JudgeError("--judge: expected a real robot; the simulation measures success by itself")
            check_terminal("--judge")


def run_episode(request: EpisodeRequest, overrides: Sequence[str]) -> None:
    """Run one episode, print its result, and write its folder.

    Args:
        request: The episode.
        overrides: Of the configuration, as after `--set`.

    Raises:
        ReportedError: The input was refused and nothing was written; or a component failed later, after which the arm
            holds and the folder is written.
    """
    request.check()
    config = load_run(task_file(request.task), overrides, request.robot)
    goal = _Goal(request, config)
    check_checkpoint(request.predictor)
    folder = RunFolder(request.out or _default_folder(request))
    with ExitStack() as stack:
        with announce(f"opening the robot ({request.robot})"):
            robot = stack.enter_context(closing(open_robot(config.robot)))
        predictor = stack.enter_context(open_predictor(request.predictor, config, robot, request.seed))
        proposals = Proposals(config.policy, config.difference, robot.spec)
        task = TaskController(config.task, robot, predictor, Solver(config.planner, proposals))
        scene_rng, plan_rng = np.random.default_rng(request.seed).spawn(2)
        if request.robot != "simulation":  # the simulation has no scene before its reset
            goal.compare(robot.observe())
        observation = robot.reset(scene_rng)
        task.begin(observation, goal.image(robot, observation), plan_rng)
        task.history.outcome = _outcome(request, robot)  # known even if the first plan fails
        task.history.scene = _start_scene(task.history, config, robot)
        folder.create(config, may_exist=request.out is not None)
        names = (request.task_name, request.robot)
        description = EpisodeDescription.of(*names, predictor.spec, request.seed, tuple(goal.warnings))
        try:
            with task:
                _run_loop(task, lambda: _outcome(request, robot), config.task.n_steps)
            task.history.judged = ask_is_done() if request.judge else None
        finally:
            lost = folder.write_record(task.history, description, robot.spec)
            if lost and task.history.error:  # the error that ended the episode is the one that is raised
                print(lost, file=sys.stderr)
        if lost:
            raise RecordError(lost)


class _Goal:
    """The goal image of an episode, and the reasons why it may be the wrong one.

    Raises:
        GoalError: From all functions: the goal is refused.
    """

    def __init__(self, request: EpisodeRequest, config: TaskRunConfig) -> None:
        self._request, self._crop = request, config.robot.camera.crop
        self.warnings: list[str] = []
        self._given: NDArray[np.uint8] | None = None
        if request.goal is not None:
            file = goal_file(request.goal)
            self._given = load_goal(file, config.robot.camera)
            self._warn(file_warnings(file))

    def image(self, robot: Robot, observation: Observation) -> NDArray[np.uint8]:
        """Return the goal as a model image; without a given one, make it in the scene of the simulation."""
        if self._given is None:
            with announce("making the goal image with the scripted policy"):
                return model_image(scripted_goal(_simulated(robot), self._request.seed), self._crop)
        if self._request.robot == "simulation":
            self.compare(observation)
        return self._given

    def compare(self, observation: Observation) -> None:
        """Compare a given goal with the present scene."""
        if self._given is not None:
            self._warn(scene_warnings(self._given, model_image(observation.image, self._crop)))

    def _warn(self, warnings: Sequence[str]) -> None:
        if warnings and self._request.strict_goal:
            raise GoalError(f"--strict-goal: {'; '.join(warnings)}")
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)
        self.warnings += warnings


def _default_folder(request: EpisodeRequest) -> Path:
    """Return a folder in runs/, named after task, predictor, time and seed."""
    started = time.strftime("%Y%m%d_%H%M%S")
    return Path("runs") / f"{request.task_name}_{request.predictor.name}_{started}_seed{request.seed}"


def _simulated(robot: Robot) -> SimulatedFranka:
    from robot_bridge.simulation.franka import SimulatedFranka  # noqa: PLC0415 - MuJoCo, which a real arm does without

    assert isinstance(robot, SimulatedFranka)  # noqa: S101 - called with `--robot simulation` only
    return robot


def _start_scene(history: EpisodeHistory, config: TaskRunConfig, robot: Robot) -> StartScene:
    """Return the objects at the start, for the report; which one is the tool, only the simulation knows."""
    configs = (config.policy.object_detection, config.difference)
    tool_m = _simulated(robot).tool_m() if config.robot.kind == "simulation" else None
    return start_scene(history.start.observation, history.goal, robot.spec, configs, tool_m)


def _outcome(request: EpisodeRequest, robot: Robot) -> TaskSuccess | None:
    """Return the result of the simulation's success test; None for a real robot."""
    return _simulated(robot).task_success() if request.robot == "simulation" else None


def _run_loop(task: TaskController, outcome_now: Callable[[], TaskSuccess | None], n_steps: int) -> None:
    """Execute actions until the episode ends; show the progress on standard error."""
    with ProgressBar("actions", n_steps, estimates_time=False) as progress:
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
            progress.update(len(history.steps), _describe_step(history, n_steps))


def _describe_plan(history: EpisodeHistory) -> str:
    """Return one line on the last plan."""
    record = history.plans[-1]
    plan, plan_s = record.plan, sum(record.latency_s.values())
    return (
        f"step {record.step}: {FAMILY_MEANINGS[plan.family]} ({plan.family}); predicted cost {plan.cost:.5f}, "
        f"the least of {len(plan.costs)} candidates, planned in {plan_s:.2f} s"
    )


def _describe_step(history: EpisodeHistory, n_steps: int) -> str:
    """Return the distance to the goal, and the longest time left by the mean time of an action with its plans."""
    n = len(history.steps)
    distance = f"image {history.goal_distances[-1]:.0f} of 255 from the goal image, arm included"
    if len(history.plans) < _PLANS_TO_ESTIMATE:
        return distance
    return f"{distance}, at most {duration(history.seconds / n * (n_steps - n))} left"
