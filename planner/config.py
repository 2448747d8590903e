"""The configuration of one run, a section for each part."""

from __future__ import annotations

from collections.abc import Sequence

from configs.loader import Config, load
from data_collection.policies.random_policy import PolicyConfig
from ghvae_core.goal_cost import CostNetworks
from planner.proposals import DifferenceConfig
from planner.solver import SolverConfig
from planner.task import TaskConfig
from robot_bridge.factory import CONFIG_FILES, RobotConfig, RobotName


class TaskRunConfig(Config):
    """All sections that `--set` knows."""

    robot: RobotConfig
    task: TaskConfig
    planner: SolverConfig
    predictor: CostNetworks
    difference: DifferenceConfig
    policy: PolicyConfig


class _TaskAlone(Config):
    task: TaskConfig


def load_run(task_file: str, overrides: Sequence[str], robot: RobotName = "simulation") -> TaskRunConfig:
    """Read the files of a run; the task decides what the simulation sets up, the overrides decide all.

    Raises:
        ConfigError: As `configs.loader.load`.
    """
    about_task = [override for override in overrides if override.startswith("task.")]
    task = load(_TaskAlone, {"task": task_file}, about_task).task
    files = {
        "robot": CONFIG_FILES[robot],
        "task": task_file,
        "planner": "planning/solver.yaml",
        "predictor": "planning/predictor.yaml",
        "difference": "planning/difference.yaml",
        "policy": "planning/policy.yaml",
    }
    scene = [f"robot.scene={task.scene}", f"robot.split={task.split}"] if robot == "simulation" else []
    return load(TaskRunConfig, files, [*scene, *overrides])
