"""Random policy of the collection and of the planner's proposals, so that candidates resemble the training data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from configs.loader import Config
from data_collection.policies.object_detection import (
    OPENING_OPEN,
    ObjectDetectionConfig,
    detect_objects,
    is_holding,
    within_reach,
)
from data_collection.policies.primitives import (
    USE_ON,
    GoalDifference,
    ObjectGoal,
    Primitives,
    PrimitivesConfig,
    at_fingertips,
    stroke,
)
from data_collection.policies.waypoints import Range, Sequences, Waypoint, walk
from robot_bridge.robot import CLOSE, OPEN, Observation, RobotSpec
from robot_bridge.safety import limit_actions

NOISE, GRASP, PUSH, CARRY, PLAY = "noise", "grasp", "push", "carry", "play"  # families; play: use one object on another


class PolicyConfig(Config):
    """A mixture of noise and of attempts at detected objects.

    Noise alone lifts an object in 3 to 7 % of episodes, the mixture in most. A model that was trained without grasps
    cannot predict one.
    """

    renamed_keys: ClassVar[Mapping[str, str]] = {
        "noise_share": "noise_fraction",
        "carry_share": "carry_fraction",
        "use_share": "use_fraction",
        "push_share": "push_fraction",
        "drag_share": "drag_fraction",
        "directed": "primitives",
        "blobs": "object_detection",
    }

    noise_fraction: float = Field(default=0.25, ge=0, le=1)  # of sequences; ours
    carry_fraction: float = Field(default=0.8, ge=0, le=1)  # of the remaining sequences while an object is held; ours
    use_fraction: float = Field(default=0.4, ge=0, le=1)  # of the sequences with two or more detected objects; ours
    push_fraction: float = Field(default=0.2, ge=0, le=1)  # of the sequences with one target; ours
    use_m: Range = (0.05, 0.2)  # distance by which an object is moved with another; ours
    noise_sd_m: tuple[float, float, float] = (0.08, 0.08, 0.06)  # of one step; Visual Foresight's 5 cm, scaled to ours
    noise_correlation: float = Field(default=0.5, ge=0, lt=1)  # from step to step; Visual Foresight
    noise_sink_m: float = 0.02  # mean descent per step, so that the arm touches objects; Visual Foresight has 4 cm
    autograsp_height_m: float = Field(default=0.06, gt=0)  # the gripper closes below this height; RoboNet's reflex
    release_probability: float = Field(default=0.12, ge=0, le=1)  # per step above that height; ours
    stride_m: Range = (0.08, 0.2)  # longest step of a sequence; ours
    aim_sd_m: float = Field(default=0.01, ge=0)  # horizontal error of an approach; ours, grasps tolerate 1 cm
    grasp_height_m: float = Field(default=0.02, gt=0)  # ours, half the height of a sponge
    drag_fraction: float = Field(default=0.4, ge=0, le=1)  # of carries that stay below 6 cm, as in wiping; ours
    primitives: PrimitivesConfig = PrimitivesConfig()
    object_detection: ObjectDetectionConfig = ObjectDetectionConfig()

    @model_validator(mode="after")
    def _check_stride(self) -> PolicyConfig:
        if not self.stride_m[0] > 0:
            raise ValueError("stride_m must be above 0")
        return self


class RandomPolicy:
    """Draws action sequences from an observation: noise, grasps, pushes, carries, and uses of one object on another."""

    def __init__(self, config: PolicyConfig, spec: RobotSpec) -> None:
        self._config = config
        self._spec = spec
        self._primitives = Primitives(config.primitives, spec)
        self._low = np.array(spec.limits.workspace_low_m)
        self._high = np.array(spec.limits.workspace_high_m)

    def sequences(self, observation: Observation, n: int, horizon: int, rng: np.random.Generator) -> Sequences:
        """Draw `n` sequences of `horizon` actions that start from `observation`.

        Objects are detected in the image; no other knowledge of the scene is used.
        """
        seen_m = detect_objects(observation.image, self._spec.camera, self._config.object_detection).places_m
        objects = seen_m[within_reach(seen_m, self._spec.limits)]
        families = [self._family(observation, len(objects), rng) for _ in range(n)]
        actions = np.empty((n, horizon, 4))
        for i, family in enumerate(families):
            actions[i] = self._sequence(family, observation, objects, horizon, rng)
        return Sequences(limit_actions(actions, observation.state[:3], self._spec.limits), families)

    def _family(self, observation: Observation, n_objects: int, rng: np.random.Generator) -> str:
        if rng.random() < self._config.noise_fraction:
            return NOISE
        if n_objects > 1 and rng.random() < self._config.use_fraction:
            return PLAY
        if is_holding(observation) and rng.random() < self._config.carry_fraction:
            return CARRY
        if not n_objects:
            return NOISE
        return PUSH if rng.random() < self._config.push_fraction else GRASP

    def _sequence(
        self,
        family: str,
        observation: Observation,
        objects: NDArray[np.float64],
        horizon: int,
        rng: np.random.Generator,
    ) -> NDArray[np.float64]:
        if family == NOISE:
            return self._noise(observation, horizon, rng)
        if family == PLAY:
            route = self._primitives.route(
                USE_ON, self._random_goals(observation, objects, rng), observation.state[:3], rng
            )
        elif family == CARRY:
            route = self._carry(observation.state[:3], rng)
        else:
            target = objects[rng.integers(len(objects))].copy()
            target[:2] += rng.normal(0.0, self._config.aim_sd_m, 2)
            route = self._grasp(target, rng) if family == GRASP else self._push(target, rng)
        stride_m = rng.uniform(*self._config.stride_m)
        limits = self._spec.limits
        return walk(route, observation.state[:3], horizon, stride_m, limits, onward=lambda: self._place(rng))

    def _random_goals(
        self, observation: Observation, objects: NDArray[np.float64], rng: np.random.Generator
    ) -> GoalDifference:
        """Draw goals for two objects, one of which is used on the other; a held object is the tool."""
        camera, hand_m = self._spec.camera, observation.state[:3]
        here = objects[rng.permutation(len(objects))]
        if is_holding(observation):
            hidden = at_fingertips(camera.project(here), hand_m, camera)
            here = np.concatenate([hand_m[None], here if hidden is None else np.delete(here, hidden, axis=0)])
        here = here[:2]
        angle, way_m = rng.uniform(-np.pi, np.pi, 2), rng.uniform(*self._config.use_m, 2)
        there = here + np.stack([way_m * np.cos(angle), way_m * np.sin(angle), np.zeros(2)], axis=1)
        pixels, goal_pixels = camera.project(here), camera.project(np.clip(there, self._low, self._high))
        goals = [ObjectGoal(pixel, goal_pixel) for pixel, goal_pixel in zip(pixels, goal_pixels, strict=True)]
        return GoalDifference(goals[0], goals[1:]) if is_holding(observation) else GoalDifference(None, goals)

    def _noise(self, observation: Observation, horizon: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw correlated translations of constant standard deviation; the gripper follows the autograsp reflex."""
        gain = self._config.noise_correlation
        steps = rng.normal(size=(horizon, 3))
        for t in range(1, horizon):
            steps[t] = gain * steps[t - 1] + np.sqrt(1 - gain**2) * steps[t]  # keeps the variance at 1
        actions = np.zeros((horizon, 4))
        actions[:, :3] = steps * self._config.noise_sd_m
        actions[:, 2] -= self._config.noise_sink_m
        reached = limit_actions(actions[None], observation.state[:3], self._spec.limits)[0, :, 2].cumsum()
        actions[:, 3] = self._autograsp(observation, observation.state[2] + reached, rng)
        return actions

    def _autograsp(
        self, observation: Observation, heights_m: NDArray[np.float64], rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Close when a step ends low; once closed, stay closed until a random release higher up."""
        closed = observation.state[4] < OPENING_OPEN
        commands = np.empty(len(heights_m))
        for t, height_m in enumerate(heights_m):
            if height_m < self._config.autograsp_height_m:
                closed = True
            elif rng.random() < self._config.release_probability:
                closed = False
            commands[t] = CLOSE if closed else OPEN
        return commands

    def _grasp(self, target_m: NDArray[np.float64], rng: np.random.Generator) -> list[Waypoint]:
        """Approach from above, descend, close, lift or drag, and carry."""
        low = np.array([*target_m[:2], self._config.grasp_height_m])
        above = np.array([*target_m[:2], rng.uniform(0.1, 0.2)])
        return [Waypoint(above, OPEN), Waypoint(low, OPEN), Waypoint(low, CLOSE), *self._carry(low, rng)]

    def _carry(self, held_m: NDArray[np.float64], rng: np.random.Generator) -> list[Waypoint]:
        """Lift or drag a held object, carry it to one to three random positions, and release it in some cases."""
        drag = rng.random() < self._config.drag_fraction
        height_m = rng.uniform(0.02, 0.06) if drag else rng.uniform(0.08, self._high[2])
        lift = np.array([*held_m[:2], max(held_m[2], rng.uniform(0.06, 0.15)) if rng.random() < 0.5 else height_m])
        places = [np.array([*self._place(rng)[:2], height_m]) for _ in range(rng.integers(1, 4))]
        route = [Waypoint(place, CLOSE) for place in [lift, *places]]
        if rng.random() < 0.4:
            up = np.array([*places[-1][:2], rng.uniform(0.1, self._high[2])])
            route += [Waypoint(places[-1], OPEN), Waypoint(up, OPEN)]
        return route

    def _push(self, target_m: NDArray[np.float64], rng: np.random.Generator) -> list[Waypoint]:
        """Set the closed fingers down next to the target and move them through it."""
        angle = rng.uniform(-np.pi, np.pi)
        direction = np.array([np.cos(angle), np.sin(angle)])
        height_m = rng.uniform(0.015, 0.04)
        start = target_m[:2] - direction * rng.uniform(0.06, 0.1)
        beyond = target_m[:2] + direction * rng.uniform(0.03, 0.15)
        approach_m, leave_m = rng.uniform(0.1, 0.2), rng.uniform(0.08, 0.2)
        return list(stroke(start, beyond, height_m, approach_m=approach_m, leave_m=leave_m))

    def _place(self, rng: np.random.Generator) -> NDArray[np.float64]:
        return rng.uniform(self._low, self._high)
