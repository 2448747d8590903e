"""Command that measures success rates: many trials, each in a different scene."""

from __future__ import annotations

import re
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

import ghvae_foresight  # noqa: F401 - refuses folders that hide our packages
from configs.command import renamed_option, run
from configs.interruption import interruption
from configs.loader import ConfigError
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
from planner.trials.variant import Variant

_FIRST_SEED = 1000  # of reported numbers; settings are tuned on seeds below
_N_TRIALS = 20  # of a task; paper table 4
_HELP_SEEDS = "Seeds A to B - 1 of the scenes (default: from 1000)."
_HELP_COMPARE = "Changes of a second variant, B, to compare with."
_HELP_WORKERS = "Trials in parallel, each in its own process (one CPU thread; oracle: two)."


def run_trials(  # noqa: PLR0917 - typer calls it by name
    tasks: Annotated[list[str], typer.Argument(help="pick_wipe, pick_sweep, or YAML files of tasks.")],
    trials: Annotated[int | None, typer.Option(min=1, help="Trials per task (default: 20, as in the paper).")] = None,
    seeds: Annotated[str | None, typer.Option(metavar="A:B", help=_HELP_SEEDS)] = None,
    robot: Annotated[RobotChoice, typer.Option(help=HELP_ROBOT)] = DEFAULT_ROBOT,
    goal: Annotated[Path | None, typer.Option(help="Real robot: the goal image of all trials.")] = None,
    strict_goal: Annotated[bool, typer.Option("--strict-goal", help=HELP_STRICT_GOAL)] = False,
    predictor: Annotated[PredictorName, typer.Option(help=HELP_PREDICTOR)] = "server",
    solver: Annotated[SolverName | None, typer.Option(help=HELP_SOLVER)] = None,
    server: Annotated[str | None, typer.Option(help=HELP_SERVER)] = None,
    checkpoint: Annotated[Path, typer.Option(help=HELP_CHECKPOINT)] = SHIPPED,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help=HELP_SET)] = None,
    compare: Annotated[list[str] | None, typer.Option(metavar="CHANGES", help=_HELP_COMPARE)] = None,
    against: Annotated[list[str] | None, renamed_option("--against", "--compare")] = None,  # noqa: ARG001
    workers: Annotated[int, typer.Option(min=1, help=_HELP_WORKERS)] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder for all trials. Default: a new one in runs/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the finished trials of --out.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print only the JSON result and errors.")] = False,
) -> None:
    """Measure success rates over trials in new scenes, with goal images made by the scripted policy.

    **Tune settings on seeds below 1000 only** (`--seeds 0:20`). Seeds from 1000, the default, are for reported numbers.
    Each trial equals `run_task TASK --seed SEED`. A scene in which the scripted policy fails is excluded.
    *Done* is success as in the paper: lifted, touched an object, and the objects are in place.
    `--compare "planner.n_candidates=100 planner.replan_every=2"` runs a second variant, B, in each scene after A and
    compares the two. B is A with these overrides, or with another `predictor=`, `checkpoint=` or `server=`.

    On a real robot (`--robot franka_ros --goal goal.png`) a person arranges each scene, when asked, and judges each
    trial by a key (y, n, or u to repeat it). It measures `success_rate` only; seeds are those of the candidates.

    Writes a folder with trials.html, failed.png, trials.json and every run. The last line on standard output is one
    JSON object, task -> numbers: `success_rate` (objects in place, by any means) and `strict_success_rate` (done with
    the tool), each with its interval, `trials`, `seconds_per_plan`, ...

    Exit codes: 0 when all trials finished; 1 when trials were aborted, which are not counted and which `--resume`
    repeats; 2 when the input was refused; 130 after Ctrl-C, with all finished trials kept.
    """
    chosen = _seeds(seeds, trials)
    if resume and out is None:
        raise ConfigError("--resume: expected --out with the folder to resume")
    choice = PredictorChoice(predictor, checkpoint, server).checked()
    a = Variant("A", choice, (*solver_override(solver), *(set_ or ())))
    variants = (a, a.changed(compare)) if compare else (a,)
    folder = out or Path("runs") / f"trials_{time.strftime('%Y%m%d_%H%M%S')}"
    with interruption():
        with nullcontext() if json_ else announce("loading libraries"):
            from planner.trials.runner import TrialSeries, run_series  # noqa: PLC0415 - MuJoCo would make --help slow

        series = TrialSeries(tuple(tasks), variants, chosen, folder, resume, workers, json_, robot, goal, strict_goal)
        run_series(series)


def _seeds(text: str | None, n_trials: int | None) -> range:
    """Return the seeds given by --seeds and --trials."""
    if text is None:
        return range(_FIRST_SEED, _FIRST_SEED + (n_trials or _N_TRIALS))
    match = re.fullmatch(r"(\d+):(\d+)", text, re.ASCII)
    seeds = range(int(match[1]), int(match[2])) if match else range(0)
    if not seeds:
        raise ConfigError(f"--seeds {text}: expected A:B with A below B, as in 1000:1020 for 1000 to 1019")
    if n_trials not in {None, len(seeds)}:
        raise ConfigError(f"--seeds {text} gives {len(seeds)} trials, --trials {n_trials}; omit one of them")
    return seeds


def main() -> None:
    """Run the command."""
    run(run_trials)


if __name__ == "__main__":
    main()
