"""Names and defaults of the options that the planner's commands share. Imports nothing heavy, for a fast `--help`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs.command import refuse_unused

PredictorName = Literal["server", "in_process", "oracle", "copy", "random"]
MODEL_PREDICTORS = ("server", "in_process")  # the predictors that need a checkpoint
SolverName = Literal["shooting", "cem", "icem", "mppi"]
RobotChoice = Literal["simulation", "franka_ros", "franka_direct"]
DEFAULT_ROBOT: RobotChoice = "simulation"  # of every command
SHIPPED = Path(__file__).resolve().parents[1] / "ghvae_core" / "checkpoints" / "tiny"  # the model of the package

HELP_CHECKPOINT = "Checkpoint folder; not used with --server."
HELP_PREDICTOR = "Predictor backend: server, local model, simulator (oracle), or a baseline."
HELP_ROBOT = "Robot: the simulation, or a Franka over ROS (franka_ros) or libfranka (franka_direct)."
HELP_SERVER = "Address of a running server; without it, a private server is started."
HELP_SET = "Override a configuration key; sections: robot, task, planner, predictor, difference, policy."
HELP_SOLVER = "Solver; overrides planner.solver."

HELP_STRICT_GOAL = "Refuse a goal image that may be the wrong one, instead of warning."


@dataclass(frozen=True)
class PredictorChoice:
    """The predictor backend that the command line selects."""

    name: PredictorName
    checkpoint: Path
    server: str | None = None  # address; None: a private server for "server"

    def checked(self) -> PredictorChoice:
        """Return this choice; refuse options of the command line that have no effect.

        Raises:
            ReportedError: The message names them.
        """
        refuse_unused({"--server": self.server is not None and self.name != "server"}, f"with --predictor {self.name}")
        is_chosen = self.checkpoint != SHIPPED
        refuse_unused(
            {"--checkpoint": is_chosen and self.server is not None}, "with --server, which has loaded its own"
        )
        refuse_unused({"--checkpoint": is_chosen and self.name in {"copy", "random"}}, f"with --predictor {self.name}")
        return self


def solver_override(solver: SolverName | None) -> tuple[str, ...]:
    """Return the configuration override that selects a solver; empty for None."""
    return () if solver is None else (f"planner.solver={solver}",)


def task_file(task: str) -> str:
    """Return the YAML file of a task, given by its name or its file, as `configs.loader.load` takes it."""
    return task if task.endswith(".yaml") or "/" in task else f"tasks/{task}.yaml"


def task_name(task: str) -> str:
    """Return the name of a task, given by its name or its file."""
    return Path(task).stem
