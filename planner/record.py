"""What happened in one run of a task, as it happens; the report is made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data_collection.episode import Episode
from planner.goal import difference
from planner.plan import Plan
from robot_bridge.camera import model_image
from robot_bridge.robot import Observation, Step

if TYPE_CHECKING:
    from robot_bridge.camera import Crop
    from robot_bridge.simulation.success import Outcome

SUCCESS, GOAL_SEEN, STEPS_USED = "success", "goal seen", "steps used"  # how a run ends by itself
FAILED, INTERRUPTED = "failed", "interrupted"  # and how it is ended


@dataclass(frozen=True)
class PlanRecord:
    """One plan, when it was made, and how long each stage took."""

    step: int  # actions executed before it
    plan: Plan
    latency_s: Mapping[str, float]  # "observe", "propose", "predict"
    after_surprise: bool = False  # made early, as the present is not what the plan before it had imagined


@dataclass(frozen=True)
class Moment:
    """What is seen at rest."""

    observation: Observation
    frame: NDArray[np.uint8]  # (64, 64, 3) RGB, what the model sees of it
    distance: float  # of the frame to the goal, 0 to 255


@dataclass(frozen=True)
class Act:
    """One action and what followed."""

    commanded: NDArray[np.float32]  # (4,)
    applied: NDArray[np.float32]  # (4,)
    after: Moment
    execute_s: float


@dataclass
class History:
    """A growing record of one run. Each note is one append, so that an interrupt leaves it whole."""

    goal: NDArray[np.uint8]  # (64, 64, 3) RGB
    crop: Crop | None  # of the camera, as the model sees it
    start: Moment = field(init=False)
    first: InitVar[Observation]
    acts: list[Act] = field(default_factory=list)
    plans: list[PlanRecord] = field(default_factory=list)
    outcome: Outcome | None = None  # the latest; None where nothing but the camera tells
    ended: str = ""  # empty while it goes on
    error: str = ""  # what ended it, if that was no end by itself

    def __post_init__(self, first: Observation) -> None:
        self.start = self._see(first)

    @property
    def moments(self) -> list[Moment]:
        """All that was seen: one more than there are acts."""
        return [self.start, *(act.after for act in self.acts)]

    @property
    def frames(self) -> list[NDArray[np.uint8]]:
        """The moments as model images."""
        return [moment.frame for moment in self.moments]

    @property
    def distances(self) -> list[float]:
        """Of the moments to the goal, 0 to 255."""
        return [moment.distance for moment in self.moments]

    def act(self, commanded: NDArray[np.float32], step: Step, execute_s: float) -> None:
        """Note an action and what followed."""
        self.acts.append(Act(commanded, step.applied, self._see(step.observation), execute_s))

    def surprises(self) -> list[float]:
        """Return how far each step's frame differs from the one that its plan imagined, 0 to 255; NaN if unknown."""
        surprises, frames = [float("nan")] * len(self.acts), self.frames
        for record, end in self.spans():
            for step, imagined in zip(range(record.step, end), record.plan.imagined, strict=False):
                surprises[step] = difference(frames[step + 1], imagined)
        return surprises

    def seen_after(self, index: int) -> NDArray[np.uint8]:
        """Return what was seen while plan `index` was executed, (n, 64, 64, 3), without the frame that it began at."""
        record, end = self.spans()[index]
        return np.array(self.frames[record.step + 1 : end + 1], np.uint8).reshape(-1, *self.goal.shape)

    def deviations_m(self) -> list[float]:
        """Return how far each applied translation differs from the commanded one."""
        return [float(np.linalg.norm(act.applied[:3] - act.commanded[:3])) for act in self.acts]

    def episode(self, info: Mapping[str, str | int | float | bool]) -> Episode | None:
        """Return the run as an episode like any other; None if nothing was executed."""
        if not self.acts:
            return None
        observations = [moment.observation for moment in self.moments]
        return Episode(
            frames=np.stack([observation.image for observation in observations]),
            states=np.stack([observation.state for observation in observations]),
            actions=np.stack([act.applied for act in self.acts]),
            commanded=np.stack([act.commanded for act in self.acts]),
            times_s=np.array([observation.time_s for observation in observations]),
            info=info,
        )

    def spans(self) -> list[tuple[PlanRecord, int]]:
        """Return each plan with the number of actions executed when the next one was made."""
        ends = [record.step for record in self.plans[1:]] + [len(self.acts)]
        return list(zip(self.plans, ends, strict=False))

    def _see(self, observation: Observation) -> Moment:
        frame = model_image(observation.image, self.crop)
        return Moment(observation, frame, difference(frame, self.goal))
