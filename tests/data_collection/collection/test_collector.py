"""The collector: reproducible episodes, redrawn plans, and faults that drop one episode and not the run."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from data_collection.collection import collector
from data_collection.collection.collector import CollectedEpisode, CollectionConfig, Collector, DroppedAttempt
from data_collection.episode import Episode
from robot_bridge.robot import CameraFault, Observation, RobotFault, Step
from robot_bridge.safety import UnsafeActionError
from robot_bridge.simulation.franka import SimulatedFranka
from tests.robot_bridge import simulated

CONFIG = CollectionConfig(n_steps=5, steps_per_draw=(2, 3), max_faults_in_row=3)
_IMAGE = np.random.default_rng(0).integers(0, 255, (240, 320, 3)).astype(np.uint8)
ARRAYS = ("frames", "states", "actions", "commanded", "times_s")


class _Failing(SimulatedFranka):
    """A simulated Franka with faults at given steps, counted over its lifetime."""

    def __init__(self, faults: dict[int, Exception]) -> None:
        super().__init__(simulated.config())
        self.faults = faults
        self.steps = 0
        self.recoveries = 0

    def step(self, action: NDArray[np.float32]) -> Step:
        self.steps += 1
        if self.steps in self.faults:
            raise self.faults[self.steps]
        return super().step(action)

    def recover(self) -> None:
        self.recoveries += 1
        super().recover()


def collect(robot: SimulatedFranka, seed: int, number: int) -> tuple[Episode | None, list[DroppedAttempt]]:
    """Return the episode, None if none was recorded, and the failed attempts."""
    attempts = list(Collector(robot, CONFIG).attempts(seed, number))
    episodes = [attempt.episode for attempt in attempts if isinstance(attempt, CollectedEpisode)]
    assert len(episodes) <= 1 and (not episodes or isinstance(attempts[-1], CollectedEpisode))
    return episodes[0] if episodes else None, [attempt for attempt in attempts if isinstance(attempt, DroppedAttempt)]


def episode_of(robot: SimulatedFranka, seed: int, number: int) -> Episode:
    episode, dropped = collect(robot, seed, number)
    assert episode is not None and not dropped
    return episode


@pytest.fixture(scope="module")
def robot() -> Iterator[SimulatedFranka]:
    arm = simulated.franka()
    yield arm
    arm.close()


def test_an_episode_holds_applied_and_commanded_actions(robot: SimulatedFranka) -> None:
    episode = episode_of(robot, seed=0, number=0)
    assert episode.actions.shape == (5, 4) and episode.frames.shape == (6, 240, 320, 3)
    moved = np.diff(episode.states[:, :3], axis=0)
    assert np.abs(moved - episode.actions[:, :3]).max() < 0.03
    assert set(np.unique(episode.actions[:, 3])) <= {-1.0, 1.0}
    assert episode.times_s[0] == 0 and (np.diff(episode.times_s) > 0.5).all()
    expected_info = {"seed": 0, "episode": 0, "attempt": 0, "swept": False}
    assert {name: episode.info[name] for name in expected_info} == expected_info
    assert 2 <= len(str(episode.info["families"]).split(",")) <= 3  # of 2 or 3 steps each
    assert int(episode.info["objects_seen"]) >= 1 and {"objects_moved_m", "lifted"} <= set(episode.info)


def test_an_episode_depends_on_its_seed_and_number_alone(robot: SimulatedFranka) -> None:
    first = episode_of(robot, seed=1, number=3)
    other = episode_of(robot, seed=1, number=4)
    again = episode_of(robot, seed=1, number=3)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert first.info == again.info
    assert not np.array_equal(first.actions, other.actions)
    assert not np.array_equal(first.actions, episode_of(robot, seed=2, number=3).actions)


def test_a_fault_drops_the_episode_and_the_next_attempt_is_kept() -> None:
    arm = _Failing({2: RobotFault("reflex"), 5: CameraFault("stale")})
    episode, dropped = collect(arm, seed=0, number=0)
    assert [(d.attempt, d.kind, d.reason, d.is_fault) for d in dropped] == [
        (0, "RobotFault", "reflex", True),
        (1, "CameraFault", "stale", False),
    ]
    assert episode is not None and episode.info["attempt"] == 2 and len(episode.actions) == 5
    assert arm.recoveries == 2 and all(d.rejected is None for d in dropped)
    arm.close()


def test_an_unsafe_action_drops_the_episode_alone() -> None:
    arm = _Failing({2: UnsafeActionError("expected finite actions, got NaN")})
    episode, dropped = collect(arm, seed=0, number=0)
    assert episode is not None and [d.kind for d in dropped] == ["UnsafeActionError"] and arm.recoveries == 1
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
    episode, dropped = collect(arm, seed=0, number=0)
    assert episode is not None and [d.kind for d in dropped] == ["not_finite"]
    arm.close()


def test_an_episode_that_cannot_be_built_is_dropped_alone() -> None:
    arm = _NotApplied(simulated.config())
    episode, dropped = collect(arm, seed=0, number=0)
    assert episode is None and [d.kind for d in dropped] == ["EpisodeError"] * 3
    assert "actions: expected finite numbers" in dropped[0].reason
    arm.close()


class _NotApplied(SimulatedFranka):
    """A simulated Franka that does not report applied actions."""

    def step(self, action: NDArray[np.float32]) -> Step:
        return dataclasses.replace(super().step(action), applied=np.full(4, np.nan, np.float32))


def test_attempts_are_limited() -> None:
    arm = _Failing(dict.fromkeys(range(1, 100), RobotFault("reflex")))
    episode, dropped = collect(arm, seed=0, number=7)
    assert episode is None and len(dropped) == CONFIG.max_faults_in_row and arm.recoveries == 3
    arm.close()


def test_an_arm_that_cannot_recover_is_reported() -> None:
    arm = _Failing({1: RobotFault("reflex")})
    attempts = Collector(arm, CONFIG).attempts(0, 0)
    assert isinstance(next(attempts), DroppedAttempt)
    arm.recover = lambda: (_ for _ in ()).throw(RobotFault("parked"))  # type: ignore[method-assign]
    with pytest.raises(RobotFault, match="parked"):
        next(attempts)
    arm.close()


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("frozen_camera", lambda seen: Observation(_IMAGE, seen.state, seen.time_s)),
        ("bad_light", lambda seen: Observation(seen.image // 40, seen.state, seen.time_s)),
        ("idle_arm", lambda seen: Observation(seen.image, np.array([0.5, 0.0, 0.1, 0.0, 1.0]), seen.time_s)),
        ("wrong_stamps", lambda seen: Observation(seen.image, seen.state, 9.0)),
    ],
)
def test_a_rejected_episode_is_complete_and_attempted_again(
    monkeypatch: pytest.MonkeyPatch, kind: str, damage: Callable[[Observation], Observation]
) -> None:
    arm = simulated.franka()
    see = SimulatedFranka.observe
    monkeypatch.setattr(SimulatedFranka, "observe", lambda self: damage(see(self)))
    episode, dropped = collect(arm, seed=0, number=0)
    assert episode is None and [d.kind for d in dropped] == [kind] * 3
    assert all(d.rejected is not None and len(d.rejected.actions) == 5 for d in dropped)
    arm.close()


def test_a_clock_jump_rejects_the_episode(monkeypatch: pytest.MonkeyPatch, robot: SimulatedFranka) -> None:
    for jump_s in (3600.0, -3600.0):
        clock = itertools.chain([0.0, jump_s], itertools.repeat(jump_s))
        monkeypatch.setattr(collector, "_clock_s", lambda clock=clock: next(clock))
        episode, dropped = collect(robot, seed=0, number=0)
        assert episode is not None and episode.info["attempt"] == 1
        assert [d.kind for d in dropped] == ["clock_jump"] and f"got a jump of {jump_s:.3f} s" in dropped[0].reason


def test_invalid_configurations_are_refused() -> None:
    for changes in ({"steps_per_draw": (5, 2)}, {"steps_per_draw": (0, 2)}, {"n_steps": 0}, {"lab": "a/b"}):
        with pytest.raises(ValidationError):
            CollectionConfig.model_validate(changes)
