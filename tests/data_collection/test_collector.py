"""The collector: reproducible episodes, redrawn plans, and faults that cost an episode but not the night."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from data_collection.collector import CollectionConfig, Collector
from data_collection.folder import CollectionError
from data_collection.policy import PolicyConfig, RandomPolicy
from robot_bridge.robot import CameraFault, Observation, RobotFault, Step
from robot_bridge.safety import UnsafeActionError
from robot_bridge.simulation.franka import SimulatedFranka
from tests.robot_bridge import simulated

CONFIG = CollectionConfig(n_steps=5, steps_per_draw=(2, 3), max_faults_in_row=3)
ARRAYS = ("frames", "states", "actions", "commanded", "times_s")


class _Failing(SimulatedFranka):
    """A simulated Franka with trouble on some of its steps, counted over its life."""

    def __init__(self, trouble: dict[int, Exception]) -> None:
        super().__init__(simulated.config())
        self.trouble = trouble
        self.steps = 0
        self.recoveries = 0

    def step(self, action: NDArray[np.float32]) -> Step:
        self.steps += 1
        if self.steps in self.trouble:
            raise self.trouble[self.steps]
        return super().step(action)

    def recover(self) -> None:
        self.recoveries += 1
        super().recover()


def make(robot: SimulatedFranka) -> Collector:
    return Collector(robot, RandomPolicy(PolicyConfig(), robot.spec), CONFIG)


@pytest.fixture(scope="module")
def robot() -> Iterator[SimulatedFranka]:
    arm = simulated.franka()
    yield arm
    arm.close()


def test_an_episode_holds_what_was_applied_and_what_was_asked(robot: SimulatedFranka) -> None:
    episode = make(robot).collect_episode(seed=0, number=0)
    assert episode.actions.shape == (5, 4) and episode.frames.shape == (6, 240, 320, 3)
    moved = np.diff(episode.states[:, :3], axis=0)
    assert np.abs(moved - episode.actions[:, :3]).max() < 0.03
    assert set(np.unique(episode.actions[:, 3])) <= {-1.0, 1.0}
    assert episode.times_s[0] == 0 and (np.diff(episode.times_s) > 0.5).all()
    assert {name: episode.info[name] for name in ("seed", "episode", "attempt")} == {
        "seed": 0,
        "episode": 0,
        "attempt": 0,
    }
    assert 2 <= len(str(episode.info["families"]).split(",")) <= 3  # of 2 or 3 steps each


def test_an_episode_depends_on_its_seed_and_number_alone(robot: SimulatedFranka) -> None:
    collector = make(robot)
    first = collector.collect_episode(seed=1, number=3)
    other = collector.collect_episode(seed=1, number=4)
    again = make(robot).collect_episode(seed=1, number=3)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert first.info == again.info
    assert not np.array_equal(first.actions, other.actions)
    assert not np.array_equal(first.actions, collector.collect_episode(seed=2, number=3).actions)


def test_a_fault_drops_the_episode_and_the_next_attempt_stands() -> None:
    arm = _Failing({2: RobotFault("reflex"), 5: CameraFault("stale")})
    collector = make(arm)
    episode = collector.collect_episode(seed=0, number=0)
    assert collector.dropped == {"RobotFault": 1, "CameraFault": 1}
    assert arm.recoveries == 2 and episode.info["attempt"] == 2 and len(episode.actions) == 5
    arm.close()


def test_an_unsafe_action_drops_the_episode_alone() -> None:
    arm = _Failing({2: UnsafeActionError("expected finite actions, got NaN")})
    collector = make(arm)
    assert collector.collect_episode(seed=0, number=0).info["attempt"] == 1
    assert collector.dropped == {"UnsafeActionError": 1} and arm.recoveries == 1
    arm.close()


@pytest.mark.parametrize("when", [0, 1, 5], ids=["first", "second", "last"])
@pytest.mark.parametrize(("height_m", "time_s"), [(np.nan, 0.0), (0.1, np.inf)], ids=["state", "time"])
def test_an_observation_that_is_not_finite_drops_the_episode_alone(
    monkeypatch: pytest.MonkeyPatch, when: int, height_m: float, time_s: float
) -> None:
    arm = simulated.franka()
    see, n_seen = SimulatedFranka.observe, itertools.count()

    def observe(self: SimulatedFranka) -> Observation:
        seen = see(self)
        if next(n_seen) != when:
            return seen
        return Observation(seen.image, np.array([0.5, 0.0, height_m, 0.0, 1.0]), time_s)

    monkeypatch.setattr(SimulatedFranka, "observe", observe)
    collector = make(arm)
    assert collector.collect_episode(seed=0, number=0).info["attempt"] == 1
    assert collector.dropped == {"UselessEpisode": 1}
    arm.close()


def test_an_episode_that_cannot_be_built_is_dropped_alone() -> None:
    arm = _NotApplied(simulated.config())
    collector = make(arm)
    with pytest.raises(CollectionError, match="actions: expected finite numbers"):
        collector.collect_episode(seed=0, number=0)
    assert collector.dropped == {"EpisodeError": 3}
    arm.close()


class _NotApplied(SimulatedFranka):
    """A simulated Franka that does not know what it applied."""

    def step(self, action: NDArray[np.float32]) -> Step:
        return dataclasses.replace(super().step(action), applied=np.full(4, np.nan, np.float32))


def test_too_many_faults_in_a_row_stop_the_collection() -> None:
    arm = _Failing(dict.fromkeys(range(1, 100), RobotFault("reflex")))
    collector = make(arm)
    with pytest.raises(
        CollectionError, match="episode 7: 3 attempts failed in a row, the last with RobotFault: reflex"
    ):
        collector.collect_episode(seed=0, number=7)
    assert collector.dropped == {"RobotFault": 3} and arm.recoveries == 3
    assert CollectionError.exit_code == 1
    arm.close()


def test_a_frozen_camera_and_a_stuck_arm_teach_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = simulated.franka()
    see = SimulatedFranka.observe
    monkeypatch.setattr(SimulatedFranka, "observe", lambda self: _blinded(see(self)))
    collector = make(arm)
    with pytest.raises(CollectionError, match="one image over and over"):
        collector.collect_episode(seed=0, number=0)
    assert collector.dropped == {"UselessEpisode": 3}
    monkeypatch.setattr(SimulatedFranka, "observe", lambda self: _stuck(see(self)))
    with pytest.raises(CollectionError, match="less than 1 mm"):
        collector.collect_episode(seed=0, number=0)
    arm.close()


def _blinded(seen: Observation) -> Observation:
    return Observation(np.full_like(seen.image, 90), seen.state, seen.time_s)


def _stuck(seen: Observation) -> Observation:
    return Observation(seen.image, np.array([0.5, 0.0, 0.1, 0.0, 1.0]), seen.time_s)


def test_impossible_configurations_are_refused() -> None:
    for changes in ({"steps_per_draw": (5, 2)}, {"steps_per_draw": (0, 2)}, {"n_steps": 0}, {"lab": "a/b"}):
        with pytest.raises(ValidationError):
            CollectionConfig.model_validate(changes)
