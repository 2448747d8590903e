"""The autonomous collector: an arm, a random policy, and one whole episode after the other."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from configs.loader import Config
from data_collection.episode import Episode, EpisodeError
from data_collection.folder import CollectionError
from data_collection.policy import PolicyConfig, RandomPolicy
from robot_bridge.robot import CameraFault, Observation, Robot, RobotFault
from robot_bridge.safety import UnsafeActionError

_LOG = logging.getLogger(__name__)


class SceneTexts(Config):
    """What RoboNet's metadata say of the place, for the people who use the data."""

    background: str = "lab"
    bin_insert: str = "none"
    bin_type: str = "unknown"
    camera_configuration: str = "single_view_45_degrees"
    camera_type: str = "unknown"
    gripper: str = "hand"  # RoboNet's name of the Franka gripper
    object_classes: str = "toys"  # names with ", " between them


class CollectionConfig(Config):
    """How episodes are collected."""

    n_steps: int = Field(default=30, ge=1)  # RoboNet: 31 frames
    steps_per_draw: tuple[int, int] = (
        6,
        15,
    )  # ours: a sequence is followed this long, then drawn anew from what is seen
    max_faults_in_row: int = Field(default=5, ge=1)  # ours; more than this and a person must look
    free_disk_floor_gib: float = Field(default=2.0, ge=0)  # ours; below, collection stops between episodes
    lab: str = Field(default="lab", pattern=r"^[A-Za-z0-9-]+$")  # first part of file names, RoboNet's custom
    note: str = Field(default="play", pattern=r"^[A-Za-z0-9_-]+$")  # part of file names after the robot
    texts: SceneTexts = SceneTexts()
    policy: PolicyConfig = PolicyConfig()

    @model_validator(mode="after")
    def _check_draws(self) -> CollectionConfig:
        if not 1 <= self.steps_per_draw[0] <= self.steps_per_draw[1]:
            raise ValueError("steps_per_draw must be two rising numbers from 1 on")
        return self


class Collector:
    """Plays with whatever lies before the arm, and records it. One caller at a time."""

    def __init__(self, robot: Robot, policy: RandomPolicy, config: CollectionConfig) -> None:
        self._robot = robot
        self._policy = policy
        self._config = config
        self.dropped: Counter[str] = Counter()  # episodes that were begun and not kept, by reason

    def collect_episode(self, seed: int, number: int) -> Episode:
        """Record one episode. A fault or an unusable number drops it, the arm recovers, and another attempt is made.

        All chance comes from (seed, number, attempt), so an episode does not depend on those before it.

        Args:
            seed: Of the whole collection.
            number: Of this episode.

        Returns:
            `n_steps` applied actions, timed from the first observation.

        Raises:
            CollectionError: `max_faults_in_row` attempts failed.
            RobotFault: A fault could not be cleared; a person must look.
        """
        reason = ""
        for attempt in range(self._config.max_faults_in_row):
            rng = np.random.default_rng(np.random.SeedSequence([seed, number, attempt]))
            try:
                return self._play(rng, {"seed": seed, "episode": number, "attempt": attempt})
            except (RobotFault, CameraFault, UnsafeActionError, EpisodeError) as fault:
                reason = f"{type(fault).__name__.lstrip('_')}: {fault}"
                self.dropped[type(fault).__name__.lstrip("_")] += 1
                _LOG.warning("episode %d, attempt %d dropped: %s", number, attempt, reason)
            self._robot.recover()
        raise CollectionError(
            f"episode {number}: {self._config.max_faults_in_row} attempts failed in a row, the last with {reason}"
        )

    def _play(self, rng: np.random.Generator, info: dict[str, str | int | float | bool]) -> Episode:
        observations = [_finite(self._robot.reset(rng))]
        applied: list[NDArray[np.float32]] = []
        commanded: list[NDArray[np.float32]] = []
        families: list[str] = []
        while len(applied) < self._config.n_steps:
            low, high = self._config.steps_per_draw
            drawn = self._policy.sequences(observations[-1], 1, high, rng)
            families += drawn.families
            n_steps = min(int(rng.integers(low, high + 1)), self._config.n_steps - len(applied))
            for action in drawn.actions[0, :n_steps]:
                step = self._robot.step(action)
                applied.append(step.applied)
                commanded.append(action)
                observations.append(_finite(step.observation))
        return self._episode(observations, applied, commanded, {**info, "families": ",".join(families)})

    def _episode(
        self,
        observations: list[Observation],
        applied: list[NDArray[np.float32]],
        commanded: list[NDArray[np.float32]],
        info: dict[str, str | int | float | bool],
    ) -> Episode:
        frames = np.stack([observation.image for observation in observations])
        states = np.stack([observation.state for observation in observations])
        times_s = np.array([observation.time_s for observation in observations])
        if (frames == frames[0]).all():
            raise _UselessEpisode("expected a camera that sees the arm move, got one image over and over")
        if np.ptp(states[:, :3], axis=0).max() < 1e-3:
            raise _UselessEpisode("expected an arm that moves, got less than 1 mm in a whole episode")
        return Episode(
            frames=frames,
            states=states,
            actions=np.stack(applied),
            commanded=np.stack(commanded),
            times_s=np.round(times_s - times_s[0], 6),  # so that an episode does not depend on those before it
            info={**self._config.texts.model_dump(), "policy_desc": "random: noise, grasps, pushes, carries", **info},
        )


class _UselessEpisode(EpisodeError):
    """An episode that teaches nothing."""


def _finite(seen: Observation) -> Observation:
    """Refuse an observation that no action can be planned from."""
    if not np.isfinite([*seen.state, seen.time_s]).all():
        raise _UselessEpisode(f"expected a finite observation, got the state {seen.state} at {seen.time_s} s")
    return seen
