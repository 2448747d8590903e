"""Command that runs one task: observe, plan towards a goal image, act, and write a report."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

import ghvae_foresight  # noqa: F401 - refuses folders that hide our packages
from configs.command import DEFAULT, print_result, run
from configs.interruption import interruption
from configs.progress import announce
from planner.options import (
    DEFAULT_ROBOT,
    HELP_CHECKPOINT,
    HELP_PREDICTOR,
    HELP_ROBOT,
    HELP_SERVER,
    HELP_SET,
    HELP_SOLVER,
    HELP_STRICT_GOAL,
    SHIPPED,
    PredictorChoice,
    PredictorName,
    RobotChoice,
    SolverName,
    solver_override,
)


def run_task(  # noqa: PLR0917 - typer calls it by name
    task: Annotated[str, typer.Argument(help="pick_wipe, pick_sweep, or a task's YAML file.")],
    goal: Annotated[
        Path | None,
        typer.Option(
            help="Goal image, 64x64 or of the camera's size, or demo:pick_wipe for the packaged one of seed 0. "
            "Default in simulation: made by the scripted policy."
        ),
    ] = None,
    strict_goal: Annotated[bool, typer.Option("--strict-goal", help=HELP_STRICT_GOAL)] = False,
    robot: Annotated[RobotChoice, typer.Option(help=HELP_ROBOT)] = DEFAULT_ROBOT,
    predictor: Annotated[PredictorName, typer.Option(help=HELP_PREDICTOR)] = "server",
    solver: Annotated[SolverName | None, typer.Option(help=HELP_SOLVER)] = None,
    server: Annotated[str | None, typer.Option(help=HELP_SERVER)] = None,
    checkpoint: Annotated[Path, typer.Option(help=HELP_CHECKPOINT)] = SHIPPED,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scene and the candidates.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Maximum number of actions; overrides task.n_steps.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="New or empty folder for the report. Default: a new one in runs/.")
    ] = None,
    judge: Annotated[
        bool, typer.Option("--judge", help="Real robot: ask at the end, by a key, whether the task is done.")
    ] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help=HELP_SET)] = None,
) -> None:
    """Run a task from one goal image, by planning with a video prediction model.

    On a real robot only a person can tell whether the task is done: `--judge` asks at the end, and
    `run_task judge RUN yes|no` records it later (see `run_task judge --help`).

    Each plan prints one line: what the chosen candidate does and, in parentheses, its kind (hold, previous, use, bring,
    shove: from the difference to the goal; noise, grasp, push, carry, play: from the random policy), its predicted
    cost, and how many candidates were compared. The distance to the goal image counts the arm, so it may rise when the
    task is done.

    Writes a folder with report.html, the episode as a RoboNet file, the configuration and result.json. The last line on
    standard output is the result as one JSON object.

    Exit codes: 0 when the episode ended regularly, whether or not the task succeeded; 1 when the robot or the predictor
    failed, or a part of the record could not be written; 2 when the input was refused; 130 after Ctrl-C. The arm holds
    its pose in every case.
    """
    overrides = [*solver_override(solver), *(set_ or []), *([f"task.n_steps={steps}"] if steps else [])]
    choice = PredictorChoice(predictor, checkpoint, server).checked()
    with interruption():
        with announce("loading libraries"):
            from planner.episode import EpisodeRequest, run_episode  # noqa: PLC0415 - MuJoCo would make --help slow

        run_episode(EpisodeRequest(task, robot, choice, seed, goal, out, strict_goal, judge), overrides)


def judge_run(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run on a real robot.")],
    answer: Annotated[Literal["yes", "no"], typer.Argument(metavar="yes|no", help="Whether the task is done.")],
    note: Annotated[str, typer.Option(help="A remark, for the report.")] = "",
) -> None:
    """Record whether a person finds the task of a run done, in its result.json and report.html.

    A later answer replaces an earlier one. A run in simulation is refused: the simulation has judged it.

    Exit codes: 0 when it was recorded, 1 when a file could not be written, 2 when the folder was refused.
    """
    from planner.verdict import record_verdict  # noqa: PLC0415 - what --help need not load

    print_result(asdict(record_verdict(run_folder, answer == "yes", note)))


def main() -> None:
    """Run the command."""
    run({DEFAULT: run_task, "judge": judge_run}, "Record what a person judged; `run_task --help` is on running a task.")


if __name__ == "__main__":
    main()
