"""The command that measures how often tasks are done: many trials, each in a scene of its own."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Annotated

import typer

from configs.command import run
from configs.interruption import interruption
from configs.loader import ConfigError
from planner.trials.variant import SECTIONS, SHIPPED, PredictorName, SolverName, Variant, solver_override

_FIRST_SEED = 1000  # of what is reported; settings are tuned below
_N_TRIALS = 20  # of a task; paper table 4


def run_trials(  # noqa: PLR0917 - typer calls it by name
    tasks: Annotated[list[str], typer.Argument(help="pick_wipe, pick_sweep, or YAML files of tasks")],
    trials: Annotated[int | None, typer.Option(min=1, help="of each task; 20 without it, as in the paper")] = None,
    seeds: Annotated[str | None, typer.Option(metavar="A:B", help="A to B - 1 in place of 1000 and on")] = None,
    predictor: Annotated[
        PredictorName, typer.Option(help="who imagines: one server for all, the model in each, the simulator, nobody")
    ] = "server",
    solver: Annotated[SolverName | None, typer.Option(help="instead of that of configs/planning/solver.yaml")] = None,
    server: Annotated[str | None, typer.Option(help="address of a server; without one a private one runs")] = None,
    checkpoint: Annotated[Path, typer.Option(help="folder of the model, where --server is not given")] = SHIPPED,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help=SECTIONS)] = None,
    against: Annotated[list[str] | None, typer.Option(metavar="CHANGES", help="what is different in B")] = None,
    workers: Annotated[
        int,
        typer.Option(
            min=1, help="trials at a time, each in a process of its own; one thread imagines, two for the oracle"
        ),
    ] = 1,
    out: Annotated[Path | None, typer.Option(help="folder of all trials; without it a new one in runs/")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="keep the trials of --out that are over")] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="tell nothing but the line of JSON and what went wrong")
    ] = False,
) -> None:
    """Measure how often tasks are done: trials in new scenes, with goal pictures that the scripted arm makes.

    **Tune settings on seeds below 1000 only** (`--seeds 0:20`). Seeds from 1000 on, which are the default, are for the
    numbers that are reported; who chooses by them measures nothing.
    Each trial is a run as `run_task TASK --seed SEED` does it; a scene in which the scripted arm fails is left out.
    *Done with the tool* is success as the paper means it: lifted, touched an object, and the objects are in place.
    `--against "planner.n_candidates=100 planner.replan_every=2"` lets a second variant, B, do each scene right after A
    and compares them. B is A but for these overrides, or for `predictor=`, `checkpoint=` or `server=`.

    Leaves a folder with trials.html, failed.png, trials.json and every run. The last line on standard output is one
    JSON object, task -> numbers: `success_rate` (objects in place, however) with its `interval`, `strict_success_rate`
    (done with the tool) with its `strict_success_interval`, `trials`, `seconds_per_plan`, ...

    Exits with 0 when all trials came to an end; 1 when the machine broke some off, which are not counted and which
    `--resume` does again; 2 when the input was refused; 130 after Ctrl-C, with every trial that was over kept.
    """
    chosen = _seeds(seeds, trials)
    if resume and out is None:
        raise ConfigError("--resume: expected --out with the folder to go on in")
    a = Variant("A", predictor, checkpoint, server, (*solver_override(solver), *(set_ or ())))
    variants = (a, a.changed(against)) if against else (a,)
    folder = out or Path("runs") / f"trials_{time.strftime('%Y%m%d_%H%M%S')}"
    with interruption():
        from planner.trials.runner import TrialSeries, run_series  # noqa: PLC0415 - mujoco, which --help need not load

        run_series(TrialSeries(tuple(tasks), variants, chosen, folder, resume, workers, json_))


def _seeds(text: str | None, n_trials: int | None) -> range:
    """Return the seeds that were asked for, by both options."""
    if text is None:
        return range(_FIRST_SEED, _FIRST_SEED + (n_trials or _N_TRIALS))
    match = re.fullmatch(r"(\d+):(\d+)", text, re.ASCII)
    seeds = range(int(match[1]), int(match[2])) if match else range(0)
    if not seeds:
        raise ConfigError(f"--seeds {text}: expected A:B with A below B, as in 1000:1020 for 1000 to 1019")
    if n_trials not in {None, len(seeds)}:
        raise ConfigError(f"--seeds {text} are {len(seeds)} trials, --trials says {n_trials}; leave one of them out")
    return seeds


def main() -> None:
    """Run the command."""
    run(run_trials)


if __name__ == "__main__":
    main()
