"""The planner uses nothing of a simulated robot but the interface of every robot."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from configs.loader import FOLDER, Config, load
from ghvae_core.goal_cost import GoalCost
from ghvae_core.models.checkpoint import Checkpoint, CheckpointInfo, build
from ghvae_core.models.ghvae import GhvaeConfig
from ghvae_core.serving.local import InProcessPredictor
from planner.config import load_run
from planner.proposals import Proposals
from planner.record import STEPS_USED
from planner.solver import Solver
from planner.task import TaskController
from robot_bridge.camera import model_image
from robot_bridge.robot import Robot
from robot_bridge.simulation.franka import SimulatedFranka
from robot_bridge.simulation.scripted_policy import make_goal
from tests.robot_bridge.simulated import config as simulation

_PUBLIC = {name for name in vars(Robot) if not name.startswith("_")}  # spec, reset, observe, step, recover, close


class _Sealed:
    """A simulated robot that exposes the interface of every robot only."""

    def __init__(self, robot: SimulatedFranka) -> None:
        object.__setattr__(self, "_inside", robot)

    def __getattribute__(self, name: str) -> Any:
        assert name in _PUBLIC, f"the planner read {name} of the robot"
        return getattr(object.__getattribute__(self, "_inside"), name)

    def __setattr__(self, name: str, value: object) -> None:
        raise AssertionError(f"the planner changed {name} of the robot")


class _Model(Config):
    model: GhvaeConfig


def _predictor(robot: SimulatedFranka, cost: GoalCost) -> InProcessPredictor:
    config = load(_Model, {"model": "models/nano.yaml"}).model
    limits, step_s = robot.spec.limits, robot.spec.step_s
    info = CheckpointInfo(
        model=config, step_limit_m=limits.step_limit_m, step_s=step_s, modules_trained=config.n_modules
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return InProcessPredictor(Checkpoint(build(config), info, "none"), cost)


def test_the_interface_hides_the_simulation() -> None:
    robot = _Sealed(SimulatedFranka(simulation()))
    for secret in ("scene", "outcome", "position", "snapshot", "twin", "_data", "__dict__"):
        try:
            getattr(robot, secret)
        except AssertionError:
            continue
        raise RuntimeError(f"{secret} could be read")


def test_a_task_runs_through_the_interface_alone() -> None:
    settings = ["planner.n_candidates=12", "planner.solver=icem", "task.n_steps=6", "planner.replan_every=3"]
    config = load_run("tasks/pick_wipe.yaml", settings)
    inside = SimulatedFranka(simulation(scene="pick_wipe", split="test"))
    observation = inside.reset(np.random.default_rng(3))
    goal = model_image(make_goal(inside))
    sealed: Any = _Sealed(inside)
    solver = Solver(config.planner, Proposals(config.policy, config.difference, sealed.spec))
    task = TaskController(config.task, sealed, _predictor(inside, config.planner.cost), solver)
    task.begin(observation, goal, np.random.default_rng(0))
    with task:
        while not task.ended:
            task.advance()
    assert task.history.ended == STEPS_USED and len(task.history.steps) == 6
    families = set(task.history.plans[0].plan.families)
    assert "use" in families  # objects to move were found in the images; candidates of the random policy are "play"
    inside.close()


def test_a_plan_crosses_at_most_15_files_of_planner_and_model() -> None:
    config = load_run("tasks/pick_wipe.yaml", ["planner.n_candidates=8"])
    robot = SimulatedFranka(simulation(scene="pick_wipe", split="test"))
    observation = robot.reset(np.random.default_rng(3))
    goal = model_image(make_goal(robot))
    solver = Solver(config.planner, Proposals(config.policy, config.difference, robot.spec))
    task = TaskController(config.task, robot, _predictor(robot, config.planner.cost), solver)
    task.begin(observation, goal, np.random.default_rng(0))
    files: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        file = Path(frame.f_code.co_filename)
        if event == "call" and file.is_relative_to(FOLDER.parent):
            files.add(str(file.relative_to(FOLDER.parent)))

    sys.setprofile(note)
    try:
        task.advance()
    finally:
        sys.setprofile(None)
        robot.close()
    crossed = sorted(file for file in files if file.startswith(("planner/", "ghvae_core/")))
    assert len(task.history.plans) == 1 and len(crossed) <= 15, crossed
