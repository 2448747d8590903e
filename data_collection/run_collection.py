"""`run_collection`: let the arm play by itself and record it."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from configs.command import run
from configs.interruption import interruption
from data_collection.episode import EpisodeError


def collect_episodes(  # noqa: PLR0917 - the parameters are the options of the command line
    hours: Annotated[
        float | None,
        typer.Option(help="Recorded time to reach in the folder: simulated time in simulation, resets not counted."),
    ] = None,
    episodes: Annotated[int | None, typer.Option(help="Episodes to reach in the folder, in place of --hours.")] = None,
    robot: Annotated[Literal["simulation", "franka_ros"], typer.Option(help="Which arm.")] = "simulation",
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with its own simulated arm.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Decides every episode, whatever the number of workers.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the episode files.")] = Path("episodes"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on in a folder that holds episodes.")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, as in collection.n_steps=50.")
    ] = None,
) -> None:
    """Let the arm play by itself and record every episode as a RoboNet file.

    Each episode is closed whole or not at all; stop at any time with Ctrl-C or SIGTERM: the arm stops, what is open
    is dropped within `supervision.stop_s`, and --resume goes on. The last line of the output is a JSON summary; the
    folder's run.json says what is going on, `run_data status` reads it.
    """
    _check_arguments(hours, episodes, robot, workers)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with interruption():
        from data_collection.collection.config import CollectionRunConfig  # noqa: PLC0415 - MuJoCo would make --help slow
        from data_collection.collection.run import Target, collect  # noqa: PLC0415

        config = CollectionRunConfig.load(seed, settings or [], robot)
        collect(config, Target(episodes, hours), out, workers, resume)


def _check_arguments(hours: float | None, episodes: int | None, robot: str, workers: int) -> None:
    if (hours is None) == (episodes is None):
        raise EpisodeError("expected one of --hours and --episodes, got both or neither")
    if hours is not None and not 0 < hours < math.inf:
        raise EpisodeError(f"--hours: expected a time above 0, got {hours:g}")
    if episodes is not None and episodes < 1:
        raise EpisodeError(f"--episodes: expected 1 or more, got {episodes}")
    if robot != "simulation" and workers > 1:
        raise EpisodeError(f"--workers: expected 1, as there is one arm, got {workers}; leave it out")


def main() -> None:
    """Run the command."""
    run(collect_episodes)


if __name__ == "__main__":
    main()
