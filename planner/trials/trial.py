"""One trial: a run of a task that is counted, unless its scene has no goal or the machine broke it off."""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from configs.command import ReportedError
from configs.loader import Config
from data_collection.atomic_io import move
from ghvae_core.predictor import NonFiniteError
from planner.episode import run_episode
from planner.goal import GoalError
from planner.plan import PlanError
from planner.predictors import EpisodeRequest
from planner.trials.variant import VariantName
from robot_bridge.robot import RobotFault

RESULT = "result.json"  # what a run leaves of itself
Status = Literal[
    "counted",  # it came to an end, or the arm or the plan failed in it
    "left out",  # it never began: the scene of this seed has no goal
    "broken off",  # by the machine: nothing is known of the task
]


@dataclass(frozen=True)
class TrialJob:
    """One trial to be done."""

    variant: VariantName
    request: EpisodeRequest  # its `out` is the folder of the run
    overrides: tuple[str, ...]
    checkpoint: str = ""  # sha256 of what is to imagine, as the series found it; a run with another is not counted
    distance: str = ""  # of the network that tells steps to go

    @property
    def out(self) -> Path:
        """The folder of the run; while it goes on, what it prints is in a file beside it."""
        if self.request.out is None:
            raise ValueError("expected a trial that has a folder")
        return self.request.out

    @property
    def log(self) -> Path:
        """What the run printed and did not get to move into its folder."""
        return self.out.with_name(f"{self.out.name}.log")

    def __str__(self) -> str:
        return f"{self.request.task_name}, {self.variant}, seed {self.request.seed}"


class TrialOutcome(NamedTuple):
    """How a trial ended, and why if not by itself."""

    status: Status
    reason: str = ""


class Trial(Config):
    """A trial that is over. What is not known of one that came to no result counts as not achieved."""

    task: str
    variant: VariantName
    seed: int
    status: Status
    reason: str  # empty where the run ended by itself
    ended: str = ""  # as in the run's result
    success: bool = False  # the goal was reached with the tool: picked, and touched the objects with it
    goal: bool = False  # the objects were where the task wants them
    picked: bool = False
    touched: bool = False
    away_m: float | None = None  # of the worst object from its place at the end
    steps: int = 0
    plans: int = 0
    seconds_per_plan: float | None = None
    folder: str  # of the run, relative to that of all trials

    @classmethod
    def of(cls, job: TrialJob, outcome: TrialOutcome, root: Path) -> Trial:
        """Return the record of a trial from how it ended and from what its run left."""
        found = _result(job) if outcome.status == "counted" else {}
        return cls(
            task=job.request.task_name,
            variant=job.variant,
            seed=job.request.seed,
            status=outcome.status,
            reason=outcome.reason,
            folder=job.out.relative_to(root).as_posix(),
            **{name: found[name] for name in _FROM_RESULT if name in found},
        )


_FROM_RESULT = ("ended", "success", "goal", "picked", "touched", "away_m", "steps", "plans", "seconds_per_plan")


def run_trial(job: TrialJob) -> TrialOutcome:
    """Do a trial in a process of its own, whose output goes to a file.

    What the arm or the plan fails at is a failed trial. A scene without a goal, or one that cannot be set up, is none,
    and neither is what the machine fails at.
    """
    _print_to(job.log)
    try:
        run_episode(job.request, job.overrides)
        outcome = _checked(job, "")
    except (RobotFault, PlanError, NonFiniteError) as error:
        outcome = _checked(job, str(error)) if (job.out / RESULT).exists() else TrialOutcome("left out", str(error))
    except GoalError as error:
        outcome = TrialOutcome("left out", str(error))
    except (ReportedError, OSError) as error:
        outcome = TrialOutcome("broken off", str(error))
    if job.out.is_dir():
        move(job.log, job.out / "log.txt")
    return outcome


def _checked(job: TrialJob, reason: str) -> TrialOutcome:
    """Return the outcome of a run that left a result: counted, if what imagined in it is what the series is about."""
    found = _result(job)
    if (found["checkpoint"], found["distance"]) != (job.checkpoint, job.distance):
        return TrialOutcome("broken off", "the checkpoint or the network of steps to go became another one meanwhile")
    return TrialOutcome("counted", reason)


def _result(job: TrialJob) -> dict[str, Any]:
    """Return what the run of a trial left as its result; nothing if it left none."""
    file = job.out / RESULT
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found


def _print_to(path: Path) -> None:
    """Send all that this process prints to a file, what libraries print and the last words of a crash included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    faulthandler.enable()
