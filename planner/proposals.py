"""Draws the candidates of a plan: from the difference to the goal, from the random policy, and two fixed ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

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
    """Candidates from the difference to the goal: their number, and how objects are matched between the images."""

    renamed_keys: ClassVar[Mapping[str, str]] = {
        "share": "fraction",
        "least_overlap": "min_overlap",
        "least_area_px": "min_area_px",
    }

    fraction: float = Field(default=0.7, ge=0, le=1)  # of the candidates; the others come from the random policy; ours
    hue_tolerance: float = Field(default=7.0, gt=0, le=90)  # on OpenCV's circle of 180; ours
    min_overlap: float = Field(default=0.5, ge=0, le=1)  # of an object's pixels: above it, it has not moved; ours
    min_area_px: int = Field(default=12, ge=1)  # of 240x320: visible area of an object in the goal; ours


class Proposals:
    """Draws candidates from the difference to the goal, and from the policy that collected the training data.

    The first candidate of a plan holds still, so that the arm does not move where all costs are equal. The second is
    the rest of the previous plan, if there is one.
    """

    def __init__(self, policy: PolicyConfig, difference: DifferenceConfig, spec: RobotSpec) -> None:
        self._policy_config = policy
        self._difference_config = difference
        self._policy = RandomPolicy(policy, spec)
        self._primitives = Primitives(policy.primitives, spec)
        self._spec = spec

    @property
    def limits(self) -> MotionLimits:
        """The motion limits of all candidates."""
        return self._spec.limits

    def draw(
        self, state: PlanningState, n: int, horizon: int, rng: np.random.Generator, *, is_first: bool = True
    ) -> Sequences:
        """Return `n` candidates of `horizon` actions, after the safety limits, from the measured hand position.

        The scored candidates are therefore the ones that would be executed.

        Args:
            state: The start of the candidates, and the goal.
            n: Number of candidates; at least 2 where `is_first`.
            horizon: Actions of each candidate.
            rng: Draws the candidates.
            is_first: Whether to include the fixed candidates: hold still, and the rest of the previous plan.
        """
        fixed = self._fixed(state, horizon) if is_first else Sequences(np.empty((0, horizon, 4), np.float32), [])
        n -= len(fixed.families)
        directed = self._draw_directed(state, n, horizon, rng)
        random = self._policy.sequences(state.observation, n - len(directed.families), horizon, rng)
        actions = np.concatenate([fixed.actions, directed.actions, random.actions])
        return self.limited(state, Sequences(actions, fixed.families + directed.families + random.families))

    def limited(self, state: PlanningState, candidates: Sequences) -> Sequences:
        """Return candidates after the safety limits, from the measured hand position."""
        hand_m = state.observation.state[:3]
        return Sequences(limit_actions(candidates.actions, hand_m, self._spec.limits), candidates.families)

    def _fixed(self, state: PlanningState, horizon: int) -> Sequences:
        hold = _hold(state.gripper, horizon)
        if not len(state.rest):
            return Sequences(hold[None], [HOLD])
        rest = np.concatenate([state.rest, _hold(float(state.rest[-1, 3]), horizon)])[:horizon]
        return Sequences(np.stack([hold, rest]), [HOLD, PREVIOUS])

    def _draw_directed(self, state: PlanningState, n: int, horizon: int, rng: np.random.Generator) -> Sequences:
        """Return candidates that move objects towards their places in the goal."""
        config, observation = self._difference_config, state.observation
        detection = self._policy_config.object_detection
        difference = find_difference(observation, state.goal, self._spec, detection, config)
        return self._primitives.sequences(difference, observation.state, round(config.fraction * n), horizon, rng)


def find_difference(
    observation: Observation,
    goal: NDArray[np.uint8],
    spec: RobotSpec,
    detection: ObjectDetectionConfig,
    config: DifferenceConfig,
) -> GoalDifference:
    """Return the objects that are elsewhere in the goal than in the present. Objects are matched by hue.

    Objects out of reach, and objects that lie mostly outside the crop of the model image, are left out.

    Args:
        observation: The present.
        goal: (64, 64, 3) uint8 RGB, a model image of the same camera.
        spec: Camera calibration and workspace of the robot.
        detection: Configuration of the object detection.
        config: Configuration of the matching.
    """
    camera = spec.camera
    now = detect_objects(observation.image, camera, detection)
    hue, coloured = colours(camera_image(goal, camera), detection)
    held_index = at_fingertips(now.pixels, observation.state[:3], camera) if is_holding(observation) else None
    reachable, shown = within_reach(now.places_m, spec.limits), camera.crop_mask()
    held, others = None, []
    for i, (pixel, own_hue, mask) in enumerate(zip(now.pixels, now.hues, now.masks, strict=True)):
        alike = coloured & (_hue_distance(hue, own_hue) <= config.hue_tolerance)
        parts = components(alike, round(config.min_area_px * camera.scale**2))
        target = ObjectGoal(pixel, max(parts, key=lambda part: np.count_nonzero(part[1]))[0] if parts else None)
        if i == held_index:
            held = target
        elif reachable[i] and shown[mask].mean() > 0.5 and alike[mask].mean() < config.min_overlap:
            others.append(target)
    if held is None and is_holding(observation):  # the held object is not visible
        held = ObjectGoal(camera.project(observation.state[None, :3])[0], None)
    return GoalDifference(held, others)


def _hue_distance(hue: NDArray[np.uint8], other: float) -> NDArray[np.float64]:
    """Return the distance of hues to one hue, on the circle of 180."""
    distance = np.abs(hue.astype(np.float64) - other)
    return np.asarray(np.minimum(distance, 180 - distance))


def _hold(gripper: float, horizon: int) -> NDArray[np.float32]:
    """Return actions (horizon, 4) without translation that keep a gripper command."""
    return np.tile(np.array([0.0, 0.0, 0.0, gripper], np.float32), (horizon, 1))
