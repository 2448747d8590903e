"""`run_collection`: collect episodes with the random policy."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Annotated, Literal

import typer

import ghvae_foresight  # noqa: F401 - refuses folders that hide our packages
from configs.command import run
from configs.interruption import interruption
from configs.progress import announce
from data_collection.episode import EpisodeError


def collect_episodes(  # noqa: PLR0917 - the parameters are the options of the command line
    hours: Annotated[
        float | None,
        typer.Option(help="Recorded hours to reach, without resets; simulated time in simulation."),
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(help="Number of episodes to reach in the folder, instead of --hours.")
    ] = None,
    robot: Annotated[Literal["simulation", "franka_ros"], typer.Option(help="Robot interface.")] = "simulation",
    workers: Annotated[int, typer.Option(min=1, help="Number of processes, each with its own simulated arm.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Random seed; episodes do not depend on --workers.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the episode files.")] = Path("episodes"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue in a folder with episodes.")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override section.key=value, for example collection.n_steps=50.")
    ] = None,
) -> None:
    """Collect episodes with the random policy and record each as a RoboNet file.

    Each file is complete or absent. Ctrl-C or SIGTERM stops the arm and drops the open episode within
    `supervision.stop_s`; --resume continues. The last line of the output is a JSON summary. The current state is in
    run.json in the folder; see `run_data status`.
    """
    _check_arguments(hours, episodes, robot, workers)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with interruption():
        with announce("loading libraries"):
            from data_collection.collection.config import (  # noqa: PLC0415 - MuJoCo would make --help slow
                CollectionRunConfig,
            )
            from data_collection.collection.run import Target, collect  # noqa: PLC0415

        config = CollectionRunConfig.load(seed, settings or [], robot)
        collect(config, Target(episodes, hours), out, workers, resume)


def _check_arguments(hours: float | None, episodes: int | None, robot: str, workers: int) -> None:
    if (hours is None) == (episodes is None):
        raise EpisodeError("expected either --hours or --episodes, got both or neither")
    if hours is not None and not 0 < hours < math.inf:
        raise EpisodeError(f"--hours: expected a number above 0, got {hours:g}")
    if episodes is not None and episodes < 1:
        raise EpisodeError(f"--episodes: expected 1 or more, got {episodes}")
    if robot != "simulation" and workers > 1:
        raise EpisodeError(f"--workers: expected 1 for a real robot, got {workers}")


def main() -> None:
    """Run the command."""
    run(collect_episodes)


if __name__ == "__main__":
    main()
