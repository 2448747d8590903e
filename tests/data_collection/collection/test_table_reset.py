"""Table reset: held objects are released, objects at the edge are moved in, and an idle table is detected."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from data_collection.collection.collector import CollectedEpisode, CollectionConfig, Collector
from data_collection.collection.table_reset import TableReset, TableResetConfig
from data_collection.policies.object_detection import (
    ObjectDetectionConfig,
    SceneActivity,
    is_holding,
    measure_activity,
    objects_at_edge,
)
from robot_bridge.robot import CLOSE, OPEN, Observation
from robot_bridge.simulation.franka import SimulatedFranka
from tests.robot_bridge import simulated

STILL, MOVING, LIFTING = SceneActivity(3, 0.0, False), SceneActivity(3, 0.1, False), SceneActivity(3, 0.0, True)


@pytest.fixture
def robot() -> Iterator[SimulatedFranka]:
    arm = simulated.franka(resets_per_scene=0)
    yield arm
    arm.close()


def tidier(robot: SimulatedFranka, **changes: object) -> TableReset:
    return TableReset(robot, TableResetConfig.model_validate(changes), ObjectDetectionConfig())


def places_m(robot: SimulatedFranka) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.array([robot.position(placed.name) for placed in robot.scene.objects])


def grasp(robot: SimulatedFranka, seen: Observation) -> Observation:
    """Pick up the first object of the scene."""
    place = robot.position(robot.scene.objects[0].name)
    for target, gripper in (([*place[:2], 0.15], OPEN), ([*place[:2], 0.015], OPEN), ([*place[:2], 0.15], CLOSE)):
        for _ in range(4):
            delta = np.array(target) - seen.state[:3]
            if gripper == CLOSE:
                seen = robot.step(np.array([0, 0, 0, CLOSE], np.float32)).observation
            seen = robot.step(np.array([*delta, gripper], np.float32)).observation
            if np.linalg.norm(np.array(target) - seen.state[:3]) < 0.01:
                break
    return seen


def test_a_table_that_is_redrawn_is_never_reset() -> None:
    arm = simulated.franka()
    assert arm.spec.renews_scene
    keeper = tidier(arm, sweep_every=1, idle_episodes_before_reset=1)
    for _ in range(3):
        keeper.update(STILL)
    assert keeper.idle_episodes == 0 and not keeper.is_due(25)
    arm.close()


def test_a_sweep_is_due_at_an_interval_and_when_nothing_moves(robot: SimulatedFranka) -> None:
    keeper = tidier(robot, sweep_every=10, idle_episodes_before_reset=2)
    assert [number for number in range(31) if keeper.is_due(number)] == [10, 20, 30]
    due = []
    for scenery in (STILL, STILL, STILL, STILL, MOVING, STILL, LIFTING, STILL):
        keeper.update(scenery)
        due.append((keeper.idle_episodes, keeper.is_due(1)))
    assert due == [(1, False), (2, True), (3, False), (4, True), (0, False), (1, False), (0, False), (1, False)]


def test_a_held_object_is_released_in_the_middle(robot: SimulatedFranka) -> None:
    for seed in range(8):
        seen = grasp(robot, robot.reset(np.random.default_rng(seed)))
        if is_holding(seen):
            break
        robot._scene = None  # another scene
    assert is_holding(seen), "no object of eight was grasped"
    tidier(robot).drop(seen, np.random.default_rng(0))
    after = robot.observe()
    assert after.state[4] > 0.9 and after.state[2] > 0.1
    place = places_m(robot)[0]
    low, high = (bound[:2] for bound in robot.spec.state_bounds())
    assert (place[:2] > low).all() and (place[:2] < high).all() and place[2] < 0.08


def test_nothing_is_released_if_nothing_is_held(robot: SimulatedFranka) -> None:
    seen = robot.reset(np.random.default_rng(0))
    before = robot.simulated_s
    tidier(robot).drop(seen, np.random.default_rng(0))
    assert robot.simulated_s == before


def test_a_sweep_moves_objects_in_from_the_edge() -> None:
    """Over several scenes, fewer objects are at the edge afterwards than before."""
    before = after = 0
    for seed in range(6):
        arm = simulated.franka(resets_per_scene=0)
        rng = np.random.default_rng(seed)
        seen = arm.reset(rng)
        keeper = tidier(arm)
        before += _at_edge(arm)
        keeper.sweep(seen, rng)
        after += _at_edge(arm)
        arm.close()
    assert before >= 4 and after < 0.6 * before


def _at_edge(arm: SimulatedFranka) -> int:
    low, high = (bound[:2] for bound in arm.spec.state_bounds())
    away = np.abs(places_m(arm)[:, :2] - (low + high) / 2) > 0.6 * (high - low) / 2
    return int(away.any(axis=1).sum())


def test_the_edge_is_detected_at_its_position(robot: SimulatedFranka) -> None:
    seen = robot.reset(np.random.default_rng(3))
    seen_m = objects_at_edge(seen, robot.spec, ObjectDetectionConfig(), 0.6)
    assert (
        len(objects_at_edge(seen, robot.spec, ObjectDetectionConfig(), 1.0))
        <= len(seen_m)
        <= len(objects_at_edge(seen, robot.spec, ObjectDetectionConfig(), 0.01))
    )
    for place in seen_m:
        assert np.linalg.norm(places_m(robot)[:, :2] - place[:2], axis=1).min() < 0.04


def test_the_activity_in_a_still_scene_finds_objects_and_no_motion(robot: SimulatedFranka) -> None:
    seen = robot.reset(np.random.default_rng(1))
    scenery = measure_activity([seen, robot.observe()], robot.spec, ObjectDetectionConfig())
    assert 1 <= scenery.objects_seen <= len(robot.scene.objects) + 1 and scenery.objects_moved_m == 0.0
    assert not scenery.lifted


def test_the_collector_sweeps_and_reports_it(robot: SimulatedFranka) -> None:
    config = CollectionConfig(n_steps=3, steps_per_draw=(1, 3), table_reset=TableResetConfig(sweep_every=2))
    collector = Collector(robot, config)
    swept = []
    for number in range(4):
        last = list(collector.attempts(0, number))[-1]
        assert isinstance(last, CollectedEpisode)
        assert last.swept == last.episode.info["swept"]
        swept.append(last.swept)
    assert swept == [False, False, True, False]
