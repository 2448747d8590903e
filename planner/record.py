"""The record of one episode, and the result that is computed from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from data_collection.episode import Episode
from ghvae_core.predictor import PredictorSpec
from planner.goal import image_distance
from planner.plan import Plan
from robot_bridge.camera import model_image
from robot_bridge.robot import Observation, Step

if TYPE_CHECKING:
    from planner.start_scene import StartScene
    from robot_bridge.camera import Crop
    from robot_bridge.simulation.success import TaskSuccess

SUCCESS, GOAL_SEEN, STEPS_USED = "success", "goal seen", "steps used"  # regular ends of an episode
SETTLED = "settled"  # another one: acting was predicted to be hardly better than holding still
FAILED, INTERRUPTED = "failed", "interrupted"  # ends by an error and by a signal
BY_SIMULATION: Final = "simulation"  # who judged success; empty: nobody
BY_PERSON: Final = "person"


@dataclass(frozen=True)
class PlanRecord:
    """One plan and its timing."""

    step: int  # actions executed before it
    plan: Plan
    latency_s: Mapping[str, float]  # "observe", "propose", "predict"
    is_early: bool = False  # made before it was due, as the prediction error was above its limit


@dataclass(frozen=True)
class ObservedFrame:
    """An observation at rest, and its distance to the goal."""

    observation: Observation
    frame: NDArray[np.uint8]  # (64, 64, 3) RGB model image
    goal_distance: float  # `image_distance` of the frame to the goal, 0 to 255


@dataclass(frozen=True)
class ExecutedStep:
    """One action and the observation that followed."""

    commanded: NDArray[np.float32]  # (4,)
    applied: NDArray[np.float32]  # (4,) after the safety limits
    after: ObservedFrame
    execute_s: float


@dataclass
class EpisodeHistory:
    """Everything recorded during one episode. Each event is one append, so an interrupt leaves it consistent."""

    goal: NDArray[np.uint8]  # (64, 64, 3) RGB
    crop: Crop | None  # of the camera
    start: ObservedFrame = field(init=False)
    first: InitVar[Observation]
    steps: list[ExecutedStep] = field(default_factory=list)
    plans: list[PlanRecord] = field(default_factory=list)
    outcome: TaskSuccess | None = None  # latest result of the success test; None for a real robot
    judged: bool | None = None  # whether a person finds the task done; None: not asked, or no answer
    scene: StartScene | None = None  # the objects at the start; None: not looked for
    ended: str = ""  # one of the ends above; empty while the episode runs
    error: str = ""  # message of the error that ended the episode; empty otherwise
    seconds: float = 0.0  # since the first plan began

    def __post_init__(self, first: Observation) -> None:
        self.start = self._observe(first)

    @property
    def observed(self) -> list[ObservedFrame]:
        """All observed frames: one more than there are steps."""
        return [self.start, *(step.after for step in self.steps)]

    @property
    def frames(self) -> list[NDArray[np.uint8]]:
        """Observed frames as model images, each (64, 64, 3)."""
        return [each.frame for each in self.observed]

    @property
    def goal_distances(self) -> list[float]:
        """Distance of each observed frame to the goal, 0 to 255."""
        return [each.goal_distance for each in self.observed]

    def add_step(self, commanded: NDArray[np.float32], step: Step, execute_s: float) -> None:
        """Record one executed action."""
        self.steps.append(ExecutedStep(commanded, step.applied, self._observe(step.observation), execute_s))

    def prediction_errors(self) -> list[float]:
        """Return the distance of each observed frame to the predicted one, 0 to 255; NaN without a prediction."""
        errors, frames = [float("nan")] * len(self.steps), self.frames
        for record, end in self.spans():
            for step, predicted in zip(range(record.step, end), record.plan.predicted_frames, strict=False):
                errors[step] = image_distance(frames[step + 1], predicted)
        return errors

    def observed_after(self, index: int) -> NDArray[np.uint8]:
        """Return the frames (n, 64, 64, 3) observed during plan `index`, without the frame at its start."""
        record, end = self.spans()[index]
        return np.array(self.frames[record.step + 1 : end + 1], np.uint8).reshape(-1, *self.goal.shape)

    def deviations_m(self) -> list[float]:
        """Return the distance of each applied translation to the commanded one."""
        return [float(np.linalg.norm(step.applied[:3] - step.commanded[:3])) for step in self.steps]

    def episode(self, info: Mapping[str, str | int | float | bool]) -> Episode | None:
        """Return the record as an episode in the form of collected ones; None without an executed action."""
        if not self.steps:
            return None
        observations = [each.observation for each in self.observed]
        return Episode(
            frames=np.stack([observation.image for observation in observations]),
            states=np.stack([observation.state for observation in observations]),
            actions=np.stack([step.applied for step in self.steps]),
            commanded=np.stack([step.commanded for step in self.steps]),
            times_s=np.array([observation.time_s for observation in observations]),
            info=info,
        )

    def spans(self) -> list[tuple[PlanRecord, int]]:
        """Return each plan with the number of actions executed before the next plan."""
        ends = [record.step for record in self.plans[1:]] + [len(self.steps)]
        return list(zip(self.plans, ends, strict=False))

    def _observe(self, observation: Observation) -> ObservedFrame:
        frame = model_image(observation.image, self.crop)
        return ObservedFrame(observation, frame, image_distance(frame, self.goal))


@dataclass(frozen=True)
class EpisodeDescription:
    """Facts of an episode that are known before it starts."""

    task: str
    robot: str
    predictor: str
    checkpoint: str
    distance: str
    seed: int
    goal_warnings: Sequence[str] = ()  # why the goal image may be the wrong one

    @classmethod
    def of(
        cls, task: str, robot: str, predictor: PredictorSpec, seed: int, goal_warnings: Sequence[str] = ()
    ) -> EpisodeDescription:
        """Return the description of an episode with a predictor."""
        return cls(task, robot, predictor.name, predictor.checkpoint, predictor.distance, seed, goal_warnings)


@dataclass(frozen=True)
class EpisodeResult:
    """Result of one episode. None: unknown. The simulation measures success; elsewhere a person judges it."""

    task: str
    robot: str
    predictor: str
    checkpoint: str  # sha256 of the checkpoint's manifest; empty if no checkpoint was used
    distance: str  # sha256 of the manifest of the temporal distance network; empty if none was used
    seed: int
    goal_warnings: Sequence[str]  # why the goal image may be the wrong one; empty: nothing speaks against it
    ended: str  # "success", "goal seen", "steps used", "settled", "failed", "interrupted"
    error: str  # message of the error; empty otherwise
    success: bool | None  # judged by the simulation: all of the next three; by a person: the task is done
    judged_by: str  # "simulation", "person"; empty: not judged
    note: str  # of the person who judged
    goal: bool | None  # the objects reached their places
    picked: bool | None  # the tool was lifted
    touched: bool | None  # the tool touched an object
    away_m: float | None  # largest distance of an object to its place at the end
    steps: int
    plans: int
    seconds: float  # from the first plan to the end, with the actions
    seconds_per_plan: float | None  # propose and predict, mean
    cost: float | None  # of the last plan
    distance_start: float  # of the observed image to the goal, RMS of 255
    distance_end: float
    prediction_error: float | None  # of observed to predicted images, mean over the steps, RMS of 255
    deviation_m: float | None  # largest distance of an applied to the commanded translation
    report: str  # path of the HTML report

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> EpisodeResult:
        """Return a stored result; one of an earlier version lacks the fields on judging.

        Raises:
            ValueError: The text is not JSON of a result.
        """
        stored = json.loads(text)
        if not isinstance(stored, dict):
            raise ValueError("expected a result, got no JSON object")
        judged_by = "" if stored.get("success") is None else BY_SIMULATION
        absent = {"goal_warnings": [], "judged_by": judged_by, "note": "", "seconds": 0.0}
        values = {**absent, **stored}
        names = {each.name for each in fields(cls)}
        if values.keys() != names:
            raise ValueError(f"expected the fields of a result, got others: {', '.join(sorted(values.keys() ^ names))}")
        return cls(**values)


def summarize(description: EpisodeDescription, history: EpisodeHistory, report: str) -> EpisodeResult:
    """Return the result of an episode so far; `report` is the path of its HTML report."""
    outcome, judged = history.outcome, history.judged
    errors = np.array(history.prediction_errors())
    errors = errors[np.isfinite(errors)]
    plan_s = [sum(record.plan.timing_s.values()) for record in history.plans]
    return EpisodeResult(
        **asdict(description),
        ended=history.ended,
        error=history.error,
        success=outcome.strict if outcome else judged,
        judged_by=BY_SIMULATION if outcome else "" if judged is None else BY_PERSON,
        note="",
        goal=outcome.goal if outcome else None,
        picked=outcome.picked if outcome else None,
        touched=outcome.touched if outcome else None,
        away_m=round(outcome.distance_m, 4) if outcome else None,
        steps=len(history.steps),
        plans=len(history.plans),
        seconds=round(history.seconds, 1),
        seconds_per_plan=round(float(np.mean(plan_s)), 4) if plan_s else None,
        cost=history.plans[-1].plan.cost if history.plans else None,
        distance_start=round(history.goal_distances[0], 2),
        distance_end=round(history.goal_distances[-1], 2),
        prediction_error=round(float(errors.mean()), 2) if len(errors) else None,
        deviation_m=round(max(history.deviations_m()), 5) if history.steps else None,
        report=report,
    )
