"""The configuration of one run, a section for each part."""

from __future__ import annotations

from collections.abc import Sequence

from configs.loader import Config, load
from data_collection.policy import PolicyConfig
from ghvae_core.predictor import Networks
from planner.difference import DifferenceConfig
from planner.solver import SolverConfig
from planner.task import TaskConfig
from robot_bridge.simulation.franka import SimulationConfig


class RunConfig(Config):
    """All sections that `--set` knows."""

    robot: SimulationConfig
    task: TaskConfig
    planner: SolverConfig
    predictor: Networks
    difference: DifferenceConfig
    policy: PolicyConfig


class _TaskAlone(Config):
    task: TaskConfig


def load_run(task_file: str, overrides: Sequence[str]) -> RunConfig:
    """Read the files of a run on the simulated robot; the task decides the scene, the overrides decide all.

    Raises:
        ConfigError: As `configs.loader.load`.
    """
    about_task = [override for override in overrides if override.startswith("task.")]
    task = load(_TaskAlone, {"task": task_file}, about_task).task
    files = {
        "robot": "robots/simulation.yaml",
        "task": task_file,
        "planner": "planning/solver.yaml",
        "predictor": "planning/predictor.yaml",
        "difference": "planning/difference.yaml",
        "policy": "planning/policy.yaml",
    }
    return load(RunConfig, files, [f"robot.scene={task.scene}", f"robot.split={task.split}", *overrides])
