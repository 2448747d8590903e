"""The candidates of one plan: what the goal suggests, what the random policy does, and a few that experience adds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from configs.loader import Config
from data_collection.policies.object_detection import (
    ObjectDetectionConfig,
    colours,
    components,
    detect_objects,
    is_holding,
    within_reach,
)
from data_collection.policies.primitives import GoalDifference, ObjectGoal, Primitives, at_fingertips
from data_collection.policies.random_policy import PolicyConfig, RandomPolicy
from data_collection.policies.waypoints import Sequences
from planner.plan import HOLD, PREVIOUS, PlanningState
from robot_bridge.camera import camera_image
from robot_bridge.robot import Observation, RobotSpec
from robot_bridge.safety import MotionLimits, limit_actions


class DifferenceConfig(Config):
    """How many candidates follow the difference, and when a thing of the present is found again in the goal."""

    share: float = Field(default=0.7, ge=0, le=1)  # of the candidates that follow it, where something must move; ours
    hue_tolerance: float = Field(default=7.0, gt=0, le=90)  # on OpenCV's circle of 180; ours
    least_overlap: float = Field(default=0.5, ge=0, le=1)  # of its pixels: a thing that covers them has not moved; ours
    least_area_px: int = Field(default=12, ge=1)  # of 240x320: of what is still seen of it in the goal; ours


def find_difference(
    observation: Observation,
    goal: NDArray[np.uint8],
    spec: RobotSpec,
    blobs: ObjectDetectionConfig,
    config: DifferenceConfig,
) -> GoalDifference:
    """Return the things that stand elsewhere in the goal than now. Things are known again by their hue alone.

    What stands out of reach, or mostly where the goal shows nothing because the model image is cropped, is left out.

    Args:
        observation: The present.
        goal: (64, 64, 3) uint8 RGB, a model image of the same camera.
        spec: Of the robot: the camera's calibration, and where the hand may go.
        blobs: What counts as a thing.
        config: What counts as the same thing in the same place.
    """
    camera = spec.camera
    now = detect_objects(observation.image, camera, blobs)
    hue, coloured = colours(camera_image(goal, camera), blobs)
    held_index = at_fingertips(now.pixels, observation.state[:3], camera) if is_holding(observation) else None
    reachable, shown = within_reach(now.places_m, spec.limits), camera.crop_mask()
    held, others = None, []
    for i, (pixel, own_hue, mask) in enumerate(zip(now.pixels, now.hues, now.masks, strict=True)):
        alike = coloured & (_apart(hue, own_hue) <= config.hue_tolerance)
        parts = components(alike, round(config.least_area_px * camera.scale**2))
        thing = ObjectGoal(pixel, max(parts, key=lambda part: np.count_nonzero(part[1]))[0] if parts else None)
        if i == held_index:
            held = thing
        elif reachable[i] and shown[mask].mean() > 0.5 and alike[mask].mean() < config.least_overlap:
            others.append(thing)
    if held is None and is_holding(observation):  # it cannot be seen
        held = ObjectGoal(camera.project(observation.state[None, :3])[0], None)
    return GoalDifference(held, others)


def _apart(hue: NDArray[np.uint8], own: float) -> NDArray[np.float64]:
    """Return how far hues are from one, on the circle of 180."""
    distance = np.abs(hue.astype(np.float64) - own)
    return np.asarray(np.minimum(distance, 180 - distance))


class Proposals:
    """Draws candidates from the difference to the goal and from the policy that the model's training data came from.

    The first candidate of a plan holds still, so that with equal costs everywhere the arm stays where it is. When there
    is a previous plan, the second is what that plan left undone.
    """

    def __init__(self, policy: PolicyConfig, difference: DifferenceConfig, spec: RobotSpec) -> None:
        self._policy_config = policy
        self._difference_config = difference
        self._policy = RandomPolicy(policy, spec)
        self._primitives = Primitives(policy.primitives, spec)
        self._spec = spec

    @property
    def limits(self) -> MotionLimits:
        """What every candidate keeps to."""
        return self._spec.limits

    def draw(
        self, state: PlanningState, n: int, horizon: int, rng: np.random.Generator, *, is_first: bool = True
    ) -> Sequences:
        """Return `n` candidates of `horizon` actions, limited from the measured hand position.

        What is scored is therefore what would be executed.

        Args:
            state: What they start from, and the goal.
            n: How many; at least 2 of the first.
            horizon: Actions of each.
            rng: Draws them.
            is_first: Whether those that are not drawn, to hold still and the previous plan, are among them.
        """
        known = self._known(state, horizon) if is_first else Sequences(np.empty((0, horizon, 4), np.float32), [])
        n -= len(known.families)
        directed = self._draw_directed(state, n, horizon, rng)
        random = self._policy.sequences(state.observation, n - len(directed.families), horizon, rng)
        actions = np.concatenate([known.actions, directed.actions, random.actions])
        return self.limited(state, Sequences(actions, known.families + directed.families + random.families))

    def limited(self, state: PlanningState, candidates: Sequences) -> Sequences:
        """Return candidates as they would be applied from the measured hand position."""
        hand_m = state.observation.state[:3]
        return Sequences(limit_actions(candidates.actions, hand_m, self._spec.limits), candidates.families)

    def _known(self, state: PlanningState, horizon: int) -> Sequences:
        hold = _hold(state.gripper, horizon)
        if not len(state.rest):
            return Sequences(hold[None], [HOLD])
        return Sequences(np.stack([hold, _continue(state.rest, horizon)]), [HOLD, PREVIOUS])

    def _draw_directed(self, state: PlanningState, n: int, horizon: int, rng: np.random.Generator) -> Sequences:
        config, observation = self._difference_config, state.observation
        difference = find_difference(observation, state.goal, self._spec, self._policy_config.object_detection, config)
        return self._primitives.sequences(difference, observation.state, round(config.share * n), horizon, rng)


def _hold(gripper: float, horizon: int) -> NDArray[np.float32]:
    """Return (horizon, 4): no translation, the gripper as it is."""
    return np.tile(np.array([0.0, 0.0, 0.0, gripper], np.float32), (horizon, 1))


def _continue(rest: NDArray[np.float32], horizon: int) -> NDArray[np.float32]:
    """Return (horizon, 4): what is left of a plan, then hold."""
    return np.concatenate([rest, _hold(float(rest[-1, 3]), horizon)])[:horizon]
