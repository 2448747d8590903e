"""`run_collection`: let the arm play by itself and record it."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from configs.command import run
from data_collection.episode import EpisodeError

if TYPE_CHECKING:
    from data_collection.configuration import RunConfig


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

    Each episode is closed whole or not at all; stop at any time with Ctrl-C and go on with --resume.
    The last line of the output is a JSON summary.
    """
    from data_collection.account import Account  # noqa: PLC0415 - MuJoCo and HDF5 would make --help slow
    from data_collection.configuration import RunConfig  # noqa: PLC0415
    from data_collection.folder import EpisodeFolder  # noqa: PLC0415
    from data_collection.logbook import Logbook  # noqa: PLC0415
    from data_collection.numbers import Numbers  # noqa: PLC0415
    from data_collection.supervisor import Supervisor  # noqa: PLC0415
    from data_collection.tally import Tally  # noqa: PLC0415

    _check_arguments(hours, episodes, robot, workers)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    config = RunConfig.load(seed, settings or [], robot)
    with ExitStack() as stack:
        stack.enter_context(_terminable())
        EpisodeFolder(out, "").check(resume)
        supervisor = stack.enter_context(Supervisor(config, out, workers))  # an arm that cannot be had: nothing written
        folder = EpisodeFolder(out, config.stem(supervisor.robot))
        lock = stack.enter_context(folder.lock(exclusive=True))
        folder.check(resume)  # a second time, now that nobody else can write
        folder.keep_config(config)
        rows = folder.tidy()
        folder.share(lock)
        present_s = sum(row.recorded_s for row in rows)
        count = _missing(len(rows), present_s, hours, episodes, config)
        account = Account(len(rows), present_s, len(rows) + count, None if hours is None else hours * 3600)
        tally = stack.enter_context(Tally(out, account))
        logbook = stack.enter_context(Logbook(folder, account, config))
        events = supervisor.run(folder, Numbers({row.number for row in rows}, count))
        for event in stack.enter_context(closing(events)):
            logbook.take(event)
            tally.show(event)
            if account.is_done():
                break


def _check_arguments(hours: float | None, episodes: int | None, robot: str, workers: int) -> None:
    if (hours is None) == (episodes is None):
        raise EpisodeError("expected one of --hours and --episodes, got both or neither")
    if hours is not None and not 0 < hours < math.inf:
        raise EpisodeError(f"--hours: expected a time above 0, got {hours:g}")
    if episodes is not None and episodes < 1:
        raise EpisodeError(f"--episodes: expected 1 or more, got {episodes}")
    if robot != "simulation" and workers > 1:
        raise EpisodeError(f"--workers: expected 1, as there is one arm, got {workers}; leave it out")


def _missing(n: int, present_s: float, hours: float | None, episodes: int | None, config: RunConfig) -> int:
    """Return how many episodes are wanted beside `n` of `present_s`; of hours, at the shortest a step can last."""
    if episodes is not None:
        return max(0, episodes - n)
    left_s = (hours or 0.0) * 3600 - present_s
    return max(0, math.ceil(left_s / (config.collection.n_steps * config.robot.step_s) - 1e-6))


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> None:
    """Run the command."""
    run(collect_episodes)


if __name__ == "__main__":
    main()
