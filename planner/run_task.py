"""Command that runs one task: observe, plan towards a goal image, act, and write a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from configs.command import run
from configs.interruption import interruption
from planner.options import (
    HELP_CHECKPOINT,
    HELP_PREDICTOR,
    HELP_SERVER,
    HELP_SET,
    HELP_SOLVER,
    SHIPPED,
    PredictorChoice,
    PredictorName,
    SolverName,
    solver_override,
)


def run_task(  # noqa: PLR0917 - typer calls it by name
    task: Annotated[str, typer.Argument(help="pick_wipe, pick_sweep, or a task's YAML file.")],
    goal: Annotated[
        Path | None,
        typer.Option(
            help="Goal image, 64x64 or of the camera's size. Default in simulation: made by the scripted policy."
        ),
    ] = None,
    robot: Annotated[Literal["simulation", "franka_ros", "franka_direct"], typer.Option(help="Robot.")] = "simulation",
    predictor: Annotated[PredictorName, typer.Option(help=HELP_PREDICTOR)] = "server",
    solver: Annotated[SolverName | None, typer.Option(help=HELP_SOLVER)] = None,
    server: Annotated[str | None, typer.Option(help=HELP_SERVER)] = None,
    checkpoint: Annotated[Path, typer.Option(help=HELP_CHECKPOINT)] = SHIPPED,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scene and the candidates.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Maximum number of actions; overrides task.n_steps.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="New or empty folder for the report. Default: a new one in runs/.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help=HELP_SET)] = None,
) -> None:
    """Run a task from one goal image, by planning with a video prediction model.

    Writes a folder with report.html, the episode as a RoboNet file, the configuration and result.json. The last line on
    standard output is the result as one JSON object.

    Exit codes: 0 when the episode ended regularly, whether or not the task succeeded; 1 when the robot or the predictor
    failed, or a part of the record could not be written; 2 when the input was refused; 130 after Ctrl-C. The arm holds
    its pose in every case.
    """
    overrides = [*solver_override(solver), *(set_ or []), *([f"task.n_steps={steps}"] if steps else [])]
    with interruption():
        from planner.episode import EpisodeRequest, run_episode  # noqa: PLC0415 - MuJoCo would make --help slow

        choice = PredictorChoice(predictor, checkpoint, server)
        run_episode(EpisodeRequest(task, robot, choice, seed, goal, out), overrides)


def main() -> None:
    """Run the command."""
    run(run_task)


if __name__ == "__main__":
    main()
