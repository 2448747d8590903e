"""Collects episodes one after the other: runs the random policy on a robot and filters the recordings."""

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
    """Scene description in RoboNet's metadata."""

    background: str = "lab"
    bin_insert: str = "none"
    bin_type: str = "unknown"
    camera_configuration: str = "single_view_45_degrees"
    camera_type: str = "unknown"
    gripper: str = "hand"  # RoboNet's name for the Franka gripper
    object_classes: str = "toys"  # names separated by ", "


class CollectionConfig(Config):
    """Collection of episodes."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"tidying": "table_reset", "gate": "episode_filter"}

    n_steps: int = Field(default=30, ge=1)  # RoboNet: 31 frames
    steps_per_draw: tuple[int, int] = (
        6,
        15,
    )  # ours: steps of a sequence before the next is drawn from the latest observation
    max_faults_in_row: int = Field(default=5, ge=1)  # ours; attempts at one episode before a pause
    free_disk_floor_gib: float = Field(default=2.0, ge=0)  # ours; with less, collection stops between episodes
    lab: str = Field(default="lab", pattern=r"^[A-Za-z0-9-]+$")  # first part of file names, as in RoboNet
    note: str = Field(default="play", pattern=r"^[A-Za-z0-9_-]+$")  # part of file names after the robot
    texts: SceneMetadata = SceneMetadata()
    policy: PolicyConfig = PolicyConfig()
    table_reset: TableResetConfig = TableResetConfig()
    episode_filter: EpisodeFilterConfig = EpisodeFilterConfig()

    @model_validator(mode="after")
    def _check_draws(self) -> CollectionConfig:
        if not 1 <= self.steps_per_draw[0] <= self.steps_per_draw[1]:
            raise ValueError("expected two rising numbers, 1 or more")
        return self


class DroppedAttempt(NamedTuple):
    """An attempt without a usable episode."""

    attempt: int
    kind: str  # identifier for counts and folder names
    reason: str
    rejected: Episode | None  # complete episode that the filter rejected; None if the attempt was aborted
    is_fault: bool  # the arm stopped with a fault


class CollectedEpisode(NamedTuple):
    """A usable episode."""

    episode: Episode
    swept: bool  # the table was reset before it
    idle_episodes: int  # consecutive episodes without object motion, this one included


class Collector:
    """Runs the random policy and records episodes. One caller at a time."""

    def __init__(self, robot: Robot, config: CollectionConfig) -> None:
        self._robot = robot
        self._config = config
        self._policy = RandomPolicy(config.policy, robot.spec)
        self._table_reset = TableReset(robot, config.table_reset, config.policy.object_detection)
        self._last: Observation | None = None  # last observation of the previous attempt, unless it was aborted

    def attempts(self, seed: int, number: int) -> Iterator[DroppedAttempt | CollectedEpisode]:
        """Try to record one episode and yield the result of each attempt; the first success is the last.

        A fault or an invalid value drops an attempt; the arm recovers and the next attempt starts. All randomness comes
        from (seed, number, attempt): where the scene is redrawn, an episode does not depend on earlier ones.

        Args:
            seed: Seed of the collection.
            number: Number of the episode.

        Yields:
            Up to `max_faults_in_row` attempts.

        Raises:
            RobotFault: A fault could not be cleared; an operator is required.
            RobotError: The connection to the arm is lost.
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
                yield CollectedEpisode(taken.episode, swept, self._table_reset.idle_episodes)
                return
            self._robot.recover()

    def _begin(self, number: int, attempt: int, rng: np.random.Generator) -> tuple[Observation, bool]:
        """Return the first observation, and whether the table was reset before it."""
        last, self._last = self._last, None  # a fault below must not repeat
        if last is not None:
            self._table_reset.drop(last, rng)
        seen = self._robot.reset(rng)
        if attempt > 0 or not self._table_reset.is_due(number):
            return seen, False
        self._table_reset.sweep(seen, rng)
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
        activity = measure_activity(observations, self._robot.spec, self._config.policy.object_detection)
        self._table_reset.update(activity)
        description = {**info, "families": ",".join(families), **activity._asdict()}
        self._last = observations[-1]
        episode = self._episode(observations, applied, commanded, description)
        return RecordedEpisode(episode, self._config.n_steps, shift_s)

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
            times_s=np.round(times_s - times_s[0], 6),  # independent of earlier episodes
            info={**self._config.texts.model_dump(), "policy_desc": "random: noise, grasps, pushes, carries", **info},
        )


def _clock_s() -> float:
    """Return the difference of the wall clock and the monotonic clock."""
    return time.time() - time.monotonic()


def _finite(seen: Observation) -> Observation:
    """Return an observation with a finite state and time; reject others."""
    if not np.isfinite([*seen.state, seen.time_s]).all():
        raise RejectedEpisodeError(
            "not_finite", f"expected a finite observation, got the state {seen.state} at {seen.time_s} s"
        )
    return seen
