"""The result of one run as plain numbers: the last line of the command, and `result.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np

from ghvae_core.predictor import PredictorSpec
from planner.record import History


@dataclass(frozen=True)
class Result:
    """What came of one run. None stands for what is not known: nothing but a simulation can tell success."""

    task: str
    robot: str
    predictor: str
    checkpoint: str  # sha256 of the checkpoint's manifest; empty where nothing of one was used
    distance: str  # sha256 of the manifest of the network that tells steps to go; empty: there was none
    seed: int
    ended: str  # "success", "goal seen", "steps used", "failed", "interrupted"
    error: str  # what failed; empty otherwise
    success: bool | None  # all of the next three
    goal: bool | None  # the objects were where the task wants them
    picked: bool | None  # the tool was lifted
    touched: bool | None  # the tool touched an object
    away_m: float | None  # of the worst object from its place at the end
    steps: int
    plans: int
    seconds_per_plan: float | None  # propose and predict, mean
    cost: float | None  # of the last plan
    distance_start: float  # of the seen image to the goal, root mean square of 255
    distance_end: float
    surprise: float | None  # of seen to imagined images, mean over the steps, root mean square of 255
    deviation_m: float | None  # of applied to commanded translations, the largest
    report: str  # the page

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self), allow_nan=False)


@dataclass(frozen=True)
class Setting:
    """What was run, as known before it began."""

    task: str
    robot: str
    predictor: str
    checkpoint: str
    distance: str
    seed: int

    @classmethod
    def of(cls, task: str, robot: str, predictor: PredictorSpec, seed: int) -> Setting:
        """Return what was run with a predictor."""
        return cls(task, robot, predictor.name, predictor.checkpoint, predictor.distance, seed)


def summarize(setting: Setting, history: History, report: str) -> Result:
    """Return the result of what happened so far; `report` is the path of the page."""
    outcome = history.outcome
    surprises = np.array(history.surprises())
    surprises = surprises[np.isfinite(surprises)]
    seconds = [sum(record.plan.timing_s.values()) for record in history.plans]
    return Result(
        **asdict(setting),
        ended=history.ended,
        error=history.error,
        success=outcome.strict if outcome else None,
        goal=outcome.goal if outcome else None,
        picked=outcome.picked if outcome else None,
        touched=outcome.touched if outcome else None,
        away_m=round(outcome.distance_m, 4) if outcome else None,
        steps=len(history.acts),
        plans=len(history.plans),
        seconds_per_plan=round(float(np.mean(seconds)), 4) if seconds else None,
        cost=history.plans[-1].plan.cost if history.plans else None,
        distance_start=round(history.distances[0], 2),
        distance_end=round(history.distances[-1], 2),
        surprise=round(float(surprises.mean()), 2) if len(surprises) else None,
        deviation_m=round(max(history.deviations_m()), 5) if history.acts else None,
        report=report,
    )
