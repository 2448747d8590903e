"""What happened in one run of a task, as it happens; the report is made from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import InitVar, asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data_collection.episode import Episode
from ghvae_core.predictor import PredictorSpec
from planner.goal import difference
from planner.plan import Plan
from robot_bridge.camera import model_image
from robot_bridge.robot import Observation, Step

if TYPE_CHECKING:
    from robot_bridge.camera import Crop
    from robot_bridge.simulation.success import TaskSuccess


SUCCESS, GOAL_SEEN, STEPS_USED = "success", "goal seen", "steps used"  # how a run ends by itself
FAILED, INTERRUPTED = "failed", "interrupted"  # and how it is ended


@dataclass(frozen=True)
class PlanRecord:
    """One plan, when it was made, and how long each stage took."""

    step: int  # actions executed before it
    plan: Plan
    latency_s: Mapping[str, float]  # "observe", "propose", "predict"
    is_early: bool = False  # made early, as the present is not what the plan before it had imagined


@dataclass(frozen=True)
class ObservedFrame:
    """What is seen at rest."""

    observation: Observation
    frame: NDArray[np.uint8]  # (64, 64, 3) RGB, what the model sees of it
    distance: float  # of the frame to the goal, 0 to 255


@dataclass(frozen=True)
class ExecutedStep:
    """One action and what followed."""

    commanded: NDArray[np.float32]  # (4,)
    applied: NDArray[np.float32]  # (4,)
    after: ObservedFrame
    execute_s: float


@dataclass
class EpisodeHistory:
    """A growing record of one run. Each note is one append, so that an interrupt leaves it whole."""

    goal: NDArray[np.uint8]  # (64, 64, 3) RGB
    crop: Crop | None  # of the camera, as the model sees it
    start: ObservedFrame = field(init=False)
    first: InitVar[Observation]
    steps: list[ExecutedStep] = field(default_factory=list)
    plans: list[PlanRecord] = field(default_factory=list)
    outcome: TaskSuccess | None = None  # the latest; None where nothing but the camera tells
    ended: str = ""  # empty while it goes on
    error: str = ""  # what ended it, if that was no end by itself

    def __post_init__(self, first: Observation) -> None:
        self.start = self._see(first)

    @property
    def observed(self) -> list[ObservedFrame]:
        """All that was seen: one more than there are acts."""
        return [self.start, *(act.after for act in self.steps)]

    @property
    def frames(self) -> list[NDArray[np.uint8]]:
        """Observed frames as model images."""
        return [each.frame for each in self.observed]

    @property
    def distances(self) -> list[float]:
        """Distance of each observed frame to the goal, 0 to 255."""
        return [each.distance for each in self.observed]

    def add_step(self, commanded: NDArray[np.float32], step: Step, execute_s: float) -> None:
        """Note an action and what followed."""
        self.steps.append(ExecutedStep(commanded, step.applied, self._see(step.observation), execute_s))

    def prediction_errors(self) -> list[float]:
        """Return how far each step's frame differs from the one that its plan imagined, 0 to 255; NaN if unknown."""
        surprises, frames = [float("nan")] * len(self.steps), self.frames
        for record, end in self.spans():
            for step, imagined in zip(range(record.step, end), record.plan.predicted_frames, strict=False):
                surprises[step] = difference(frames[step + 1], imagined)
        return surprises

    def seen_after(self, index: int) -> NDArray[np.uint8]:
        """Return what was seen while plan `index` was executed, (n, 64, 64, 3), without the frame that it began at."""
        record, end = self.spans()[index]
        return np.array(self.frames[record.step + 1 : end + 1], np.uint8).reshape(-1, *self.goal.shape)

    def deviations_m(self) -> list[float]:
        """Return how far each applied translation differs from the commanded one."""
        return [float(np.linalg.norm(act.applied[:3] - act.commanded[:3])) for act in self.steps]

    def episode(self, info: Mapping[str, str | int | float | bool]) -> Episode | None:
        """Return the run as an episode like any other; None if nothing was executed."""
        if not self.steps:
            return None
        observations = [each.observation for each in self.observed]
        return Episode(
            frames=np.stack([observation.image for observation in observations]),
            states=np.stack([observation.state for observation in observations]),
            actions=np.stack([act.applied for act in self.steps]),
            commanded=np.stack([act.commanded for act in self.steps]),
            times_s=np.array([observation.time_s for observation in observations]),
            info=info,
        )

    def spans(self) -> list[tuple[PlanRecord, int]]:
        """Return each plan with the number of actions executed when the next one was made."""
        ends = [record.step for record in self.plans[1:]] + [len(self.steps)]
        return list(zip(self.plans, ends, strict=False))

    def _see(self, observation: Observation) -> ObservedFrame:
        frame = model_image(observation.image, self.crop)
        return ObservedFrame(observation, frame, difference(frame, self.goal))


@dataclass(frozen=True)
class EpisodeResult:
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
class EpisodeDescription:
    """What was run, as known before it began."""

    task: str
    robot: str
    predictor: str
    checkpoint: str
    distance: str
    seed: int

    @classmethod
    def of(cls, task: str, robot: str, predictor: PredictorSpec, seed: int) -> EpisodeDescription:
        """Return what was run with a predictor."""
        return cls(task, robot, predictor.name, predictor.checkpoint, predictor.distance, seed)


def summarize(description: EpisodeDescription, history: EpisodeHistory, report: str) -> EpisodeResult:
    """Return the result of what happened so far; `report` is the path of the page."""
    outcome = history.outcome
    surprises = np.array(history.prediction_errors())
    surprises = surprises[np.isfinite(surprises)]
    seconds = [sum(record.plan.timing_s.values()) for record in history.plans]
    return EpisodeResult(
        **asdict(description),
        ended=history.ended,
        error=history.error,
        success=outcome.strict if outcome else None,
        goal=outcome.goal if outcome else None,
        picked=outcome.picked if outcome else None,
        touched=outcome.touched if outcome else None,
        away_m=round(outcome.distance_m, 4) if outcome else None,
        steps=len(history.steps),
        plans=len(history.plans),
        seconds_per_plan=round(float(np.mean(seconds)), 4) if seconds else None,
        cost=history.plans[-1].plan.cost if history.plans else None,
        distance_start=round(history.distances[0], 2),
        distance_end=round(history.distances[-1], 2),
        surprise=round(float(surprises.mean()), 2) if len(surprises) else None,
        deviation_m=round(max(history.deviations_m()), 5) if history.steps else None,
        report=report,
    )
