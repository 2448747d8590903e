"""The autonomous collector: an arm, a random policy, and one whole episode after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from configs.loader import Config
from data_collection.collection.episode_filter import EpisodeFilterConfig, RecordedEpisode, RejectedEpisodeError, check
from data_collection.collection.table_reset import TableReset, TableResetConfig
from data_collection.episode import Episode, EpisodeError
from data_collection.policies.object_detection import measure_activity
from data_collection.policies.random_policy import PolicyConfig, RandomPolicy
from robot_bridge.robot import CameraFault, Observation, Robot, RobotError, RobotFault
from robot_bridge.safety import UnsafeActionError


class SceneMetadata(Config):
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

    renamed_keys: ClassVar[Mapping[str, str]] = {"tidying": "table_reset", "gate": "episode_filter"}

    n_steps: int = Field(default=30, ge=1)  # RoboNet: 31 frames
    steps_per_draw: tuple[int, int] = (
        6,
        15,
    )  # ours: a sequence is followed this long, then drawn anew from what is seen
    max_faults_in_row: int = Field(default=5, ge=1)  # ours; attempts at one episode before something else is tried
    free_disk_floor_gib: float = Field(default=2.0, ge=0)  # ours; below, collection stops between episodes
    lab: str = Field(default="lab", pattern=r"^[A-Za-z0-9-]+$")  # first part of file names, RoboNet's custom
    note: str = Field(default="play", pattern=r"^[A-Za-z0-9_-]+$")  # part of file names after the robot
    texts: SceneMetadata = SceneMetadata()
    policy: PolicyConfig = PolicyConfig()
    table_reset: TableResetConfig = TableResetConfig()
    episode_filter: EpisodeFilterConfig = EpisodeFilterConfig()

    @model_validator(mode="after")
    def _check_draws(self) -> CollectionConfig:
        if not 1 <= self.steps_per_draw[0] <= self.steps_per_draw[1]:
            raise ValueError("steps_per_draw must be two rising numbers from 1 on")
        return self


class DroppedAttempt(NamedTuple):
    """An attempt that gave no episode to learn from."""

    attempt: int
    kind: str  # in a word or two, for counts and folder names
    reason: str
    rejected: Episode | None  # a whole episode that the gate refused; None where it was broken off
    is_fault: bool  # the arm stopped itself


class CollectedEpisode(NamedTuple):
    """An episode to keep."""

    episode: Episode
    swept: bool  # the table was swept before it
    idle_episodes: int  # episodes in a row, this one included, in which nothing but the arm was seen to move


class Collector:
    """Plays with whatever lies before the arm, and records it. One caller at a time."""

    def __init__(self, robot: Robot, config: CollectionConfig) -> None:
        self._robot = robot
        self._config = config
        self._policy = RandomPolicy(config.policy, robot.spec)
        self._tidier = TableReset(robot, config.table_reset, config.policy.object_detection)
        self._last: Observation | None = None  # of the attempt before, where nothing broke it off

    def attempts(self, seed: int, number: int) -> Iterator[DroppedAttempt | CollectedEpisode]:
        """Try to record one episode, and tell of each attempt; the last is the first that succeeds, if any does.

        A fault or an unusable number drops an attempt, the arm recovers, and another is made. All chance comes from
        (seed, number, attempt), so on a table that is laid anew an episode does not depend on those before it.

        Args:
            seed: Of the whole collection.
            number: Of this episode.

        Yields:
            Up to `max_faults_in_row` attempts.

        Raises:
            RobotFault: A fault could not be cleared; a person must look.
            RobotError: The arm is gone.
        """
        for attempt in range(self._config.max_faults_in_row):
            rng = np.random.default_rng(np.random.SeedSequence([seed, number, attempt]))
            taken: RecordedEpisode | None = None
            try:
                first, swept = self._begin(number, attempt, rng)
                taken = self._play(first, rng, {"seed": seed, "episode": number, "attempt": attempt, "swept": swept})
                check(taken, self._robot.spec, self._config.episode_filter)
            except RejectedEpisodeError as refusal:
                yield DroppedAttempt(attempt, refusal.kind, str(refusal), taken.episode if taken else None, False)
            except (RobotFault, CameraFault, UnsafeActionError, EpisodeError) as fault:
                yield DroppedAttempt(attempt, type(fault).__name__, str(fault), None, isinstance(fault, RobotFault))
            except RobotError as lost:
                yield DroppedAttempt(attempt, type(lost).__name__, str(lost), None, False)
                raise
            else:
                yield CollectedEpisode(taken.episode, swept, self._tidier.idle_episodes)
                return
            self._robot.recover()

    def _begin(self, number: int, attempt: int, rng: np.random.Generator) -> tuple[Observation, bool]:
        """Return what is seen at the start, and whether the table was swept before."""
        last, self._last = self._last, None  # a fault on the way is told of once
        if last is not None:
            self._tidier.drop(last, rng)
        seen = self._robot.reset(rng)
        if attempt > 0 or not self._tidier.is_due(number):
            return seen, False
        self._tidier.sweep(seen, rng)
        return self._robot.reset(rng), True

    def _play(
        self, first: Observation, rng: np.random.Generator, info: dict[str, str | int | float | bool]
    ) -> RecordedEpisode:
        clock_s = _clock_s()
        observations = [_finite(first)]
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
        shift_s = _clock_s() - clock_s
        scenery = measure_activity(observations, self._robot.spec, self._config.policy.object_detection)
        self._tidier.judge(scenery)
        told = {**info, "families": ",".join(families), **scenery._asdict()}
        self._last = observations[-1]
        return RecordedEpisode(self._episode(observations, applied, commanded, told), self._config.n_steps, shift_s)

    def _episode(
        self,
        observations: list[Observation],
        applied: list[NDArray[np.float32]],
        commanded: list[NDArray[np.float32]],
        info: dict[str, str | int | float | bool],
    ) -> Episode:
        times_s = np.array([observation.time_s for observation in observations])
        return Episode(
            frames=np.stack([observation.image for observation in observations]),
            states=np.stack([observation.state for observation in observations]),
            actions=np.stack(applied),
            commanded=np.stack(commanded),
            times_s=np.round(times_s - times_s[0], 6),  # so that an episode does not depend on those before it
            info={**self._config.texts.model_dump(), "policy_desc": "random: noise, grasps, pushes, carries", **info},
        )


def _clock_s() -> float:
    """Return how far the wall clock is ahead of the monotonic one."""
    return time.time() - time.monotonic()


def _finite(seen: Observation) -> Observation:
    """Refuse an observation that no action can be planned from."""
    if not np.isfinite([*seen.state, seen.time_s]).all():
        raise RejectedEpisodeError(
            "not_finite", f"expected a finite observation, got the state {seen.state} at {seen.time_s} s"
        )
    return seen
