"""One trial: an episode in a process of its own, and whether it is counted."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from configs.command import ReportedError
from configs.interruption import interruption
from configs.loader import Config
from data_collection.atomic_io import move
from ghvae_core.predictor import NonFiniteError
from planner.episode import EpisodeRequest, run_episode
from planner.goal import GoalError
from planner.plan import PlanError
from planner.record import BY_PERSON, BY_SIMULATION
from planner.trials.variant import VariantName
from robot_bridge.robot import RobotFault

RESULT = "result.json"  # the result that an episode writes into its folder
Status = Literal[
    "counted",  # the episode ended, or the arm or the plan failed in it
    "excluded",  # the episode did not start: its scene has no goal
    "aborted",  # by an error of the machine, which says nothing about the task
]
_FROM_RESULT = ("ended", "goal", "picked", "touched", "away_m", "steps", "plans", "seconds_per_plan")


@dataclass(frozen=True)
class TrialJob:
    """One trial to run."""

    variant: VariantName
    request: EpisodeRequest  # its `out` is the folder of the trial
    overrides: tuple[str, ...]
    checkpoint: str = ""  # expected sha256 of the predictor's checkpoint; an episode with another is not counted
    distance: str = ""  # the same of the temporal distance network

    @property
    def out(self) -> Path:
        """Folder of the trial."""
        if self.request.out is None:
            raise ValueError("expected a trial with a folder")
        return self.request.out

    @property
    def log(self) -> Path:
        """File of the output while the trial runs, next to its folder."""
        return self.out.with_name(f"{self.out.name}.log")

    def __str__(self) -> str:
        return f"{self.request.task_name}, {self.variant}, seed {self.request.seed}"


class TrialOutcome(NamedTuple):
    """How a trial ended."""

    status: Status
    reason: str = ""  # empty where the episode ended regularly


class Trial(Config):
    """Record of a finished trial. Whatever is unknown counts as not achieved; None: nobody measured it."""

    renamed_values: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "status": {"left out": "excluded", "broken off": "aborted"}
    }

    task: str
    variant: VariantName
    seed: int
    status: Status
    reason: str  # empty where the episode ended regularly
    ended: str = ""  # as in the result of the episode
    judged_by: Literal["simulation", "person"] = BY_SIMULATION
    success: bool = False  # by the simulation: tool lifted, it touched an object, objects in place; by a person: done
    goal: bool | None = False  # the objects reached their places
    picked: bool | None = False
    touched: bool | None = False
    away_m: float | None = None  # largest distance of an object to its place at the end
    steps: int = 0
    plans: int = 0
    seconds_per_plan: float | None = None
    folder: str  # of the trial, relative to the folder of all trials

    @classmethod
    def of(cls, job: TrialJob, outcome: TrialOutcome, root: Path) -> Trial:
        """Return the record of a trial from its outcome and from the result in its folder."""
        result = _read_result(job) if outcome.status == "counted" else {}
        measured = {name: result[name] for name in _FROM_RESULT if name in result}
        return cls(
            task=job.request.task_name,
            variant=job.variant,
            seed=job.request.seed,
            status=outcome.status,
            reason=outcome.reason,
            folder=job.out.relative_to(root).as_posix(),
            judged_by=BY_SIMULATION if job.request.robot == "simulation" else BY_PERSON,
            success=bool(result.get("success")),
            **measured,
        )


def run_trial(job: TrialJob) -> TrialOutcome:
    """Run a trial; called in its own process, whose output is redirected to a file.

    A failure of the arm or the plan is a failed trial. A scene without a goal is excluded, and errors of the machine
    abort the trial. SIGTERM ends a trial on a real robot between two actions, with the arm held.
    """
    _redirect_output(job.log)
    is_real = job.request.robot != "simulation"
    try:
        with interruption((signal.SIGTERM,)) if is_real else nullcontext():
            run_episode(job.request, job.overrides)
        outcome = _counted(job, "")
    except KeyboardInterrupt:
        outcome = TrialOutcome("aborted", "it was interrupted")
    except (RobotFault, PlanError, NonFiniteError) as error:
        outcome = _counted(job, str(error)) if (job.out / RESULT).exists() else TrialOutcome("excluded", str(error))
    except GoalError as error:
        outcome = TrialOutcome("excluded", str(error))
    except (ReportedError, OSError) as error:
        outcome = TrialOutcome("aborted", str(error))
    if job.out.is_dir():
        move(job.log, job.out / "log.txt")
    return outcome


def _counted(job: TrialJob, reason: str) -> TrialOutcome:
    """Return the outcome of an episode with a result: counted, if it used the expected networks."""
    result = _read_result(job)
    if (result["checkpoint"], result["distance"]) != (job.checkpoint, job.distance):
        return TrialOutcome("aborted", "the checkpoint or the temporal distance network changed during the trials")
    return TrialOutcome("counted", reason)


def _read_result(job: TrialJob) -> dict[str, Any]:
    """Return the result in the folder of a trial; empty without one."""
    file = job.out / RESULT
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return result


def _redirect_output(path: Path) -> None:
    """Redirect all output of this process to a file, including that of C libraries and of crashes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    faulthandler.enable()
