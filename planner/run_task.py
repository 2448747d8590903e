"""The command that does a task: look, plan towards a goal picture, act, and leave a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from configs.command import run
from configs.interruption import interruption
from planner.trials.variant import SECTIONS, SHIPPED, PredictorName, SolverName, solver_override


def run_task(  # noqa: PLR0917 - typer calls it by name
    task: Annotated[str, typer.Argument(help="pick_wipe, pick_sweep, or a YAML file of a task")],
    goal: Annotated[
        Path | None, typer.Option(help="goal picture, 64x64 or camera size; without one the scripted arm makes it")
    ] = None,
    robot: Annotated[
        Literal["simulation", "franka_ros", "franka_direct"], typer.Option(help="which arm")
    ] = "simulation",
    predictor: Annotated[
        PredictorName,
        typer.Option(help="who imagines: a server, the model in this process, the simulator itself, or nobody"),
    ] = "server",
    solver: Annotated[SolverName | None, typer.Option(help="instead of that of configs/planning/solver.yaml")] = None,
    server: Annotated[str | None, typer.Option(help="address of a server; without one a private one runs")] = None,
    checkpoint: Annotated[Path, typer.Option(help="folder of the model, where --server is not given")] = SHIPPED,
    seed: Annotated[int, typer.Option(min=0, help="draws the scene and the candidates")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="most actions; without it as many as the task says")] = None,
    out: Annotated[Path | None, typer.Option(help="new folder of the report; without it one in runs/")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help=SECTIONS)] = None,
) -> None:
    """Do a task from one goal picture, by planning on a model that imagines.

    Leaves a folder with report.html, the episode as a RoboNet file, the configuration and result.json; the last line on
    standard output is the result as one JSON object.

    Exits with 0 when the run came to its end, done or not; 1 when the robot or the predictor failed or not all could be
    recorded; 2 when the input was refused; 130 after Ctrl-C. The arm is held in every case.
    """
    overrides = [*solver_override(solver), *(set_ or []), *([f"task.n_steps={steps}"] if steps else [])]
    with interruption():
        from planner.episode import run_episode  # noqa: PLC0415 - mujoco and the rest, which --help need not load
        from planner.predictors import EpisodeRequest  # noqa: PLC0415

        run_episode(EpisodeRequest(task, robot, predictor, server, checkpoint, seed, goal, out), overrides)


def main() -> None:
    """Run the command."""
    run(run_task)


if __name__ == "__main__":
    main()
