"""Configuration of one task run: one section for each component."""

from __future__ import annotations

from collections.abc import Sequence

from configs.loader import Config, load
from data_collection.policies.random_policy import PolicyConfig
from ghvae_core.goal_cost import CostNetworks
from planner.proposals import DifferenceConfig
from planner.solver import SolverConfig
from planner.task import TaskConfig
from robot_bridge.factory import CONFIG_FILES, RobotConfig, RobotName

_HOLDS = 2  # plans in a row after which a task ends on a real robot; measured by tests/benchmarks/stop_on_done.py


class TaskRunConfig(Config):
    """All sections that `--set` accepts."""

    robot: RobotConfig
    task: TaskConfig
    planner: SolverConfig
    predictor: CostNetworks
    difference: DifferenceConfig
    policy: PolicyConfig


class _TaskSection(Config):
    task: TaskConfig


def load_run(task_file: str, overrides: Sequence[str], robot: RobotName = "simulation") -> TaskRunConfig:
    """Read the configuration files of a run. The task sets the scene of the simulation; overrides take precedence.

    On a real robot, whose success nobody measures, a task ends by itself where acting gains little over holding still.

    Args:
        task_file: YAML file of the task.
        overrides: `section.key=value`, as after `--set`.
        robot: The robot.

    Raises:
        ConfigError: As `configs.loader.load`.
    """
    task_overrides = [override for override in overrides if override.startswith("task.")]
    task = load(_TaskSection, {"task": task_file}, task_overrides).task
    files = {
        "robot": CONFIG_FILES[robot],
        "task": task_file,
        "planner": "planning/solver.yaml",
        "predictor": "planning/predictor.yaml",
        "difference": "planning/difference.yaml",
        "policy": "planning/policy.yaml",
    }
    if robot == "simulation":
        defaults = [f"robot.scene={task.scene}", f"robot.split={task.split}"]
    else:
        defaults = [] if "stop_after_holds" in task.model_fields_set else [f"task.stop_after_holds={_HOLDS}"]
    return load(TaskRunConfig, files, [*defaults, *overrides])
