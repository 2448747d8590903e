"""Simulated Franka: determinism, snapshots, twins and faults."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from robot_bridge.robot import CLOSE, OPEN, RobotError, RobotFault
from robot_bridge.simulation.franka import SimulatedFranka
from tests.robot_bridge.robot_contract import act
from tests.robot_bridge.simulated import config, franka


def random_actions(n: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    moves = rng.normal(0, 0.1, (n, 3)) - np.array([0, 0, 0.03])
    return np.column_stack([moves, rng.choice([-1.0, 1.0], n)]).astype(np.float32)


def play(robot: SimulatedFranka, actions: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the exact physical state after the actions."""
    for action in actions:
        robot.advance(action)
    return robot.snapshot().physics


@pytest.mark.parametrize("scene", ["bin", "pick_wipe", "pick_sweep"])
def test_equal_seeds_give_equal_scenes_motions_and_images(scene: str) -> None:
    states, images = [], []
    for _ in range(2):
        robot = franka(scene=scene)
        robot.reset(np.random.default_rng(5))
        states.append(play(robot, random_actions(5)))
        images.append(robot.render())
    np.testing.assert_array_equal(states[0], states[1])
    np.testing.assert_array_equal(images[0], images[1])


def test_each_reset_makes_another_scene() -> None:
    robot = franka()
    rng = np.random.default_rng(0)
    first = robot.reset(rng).image
    assert not np.array_equal(first, robot.reset(rng).image)


@pytest.mark.parametrize("scene", ["bin", "pick_sweep"])
def test_restored_snapshot_is_bitwise_reproducible(scene: str) -> None:
    robot = franka(scene=scene)
    robot.reset(np.random.default_rng(1))
    play(robot, random_actions(4, seed=1))
    snapshot, task_success = robot.snapshot(), robot.task_success()
    first = play(robot, random_actions(8))
    robot.restore(snapshot)
    assert robot.task_success() == task_success
    np.testing.assert_array_equal(play(robot, random_actions(8)), first)


def test_time_is_monotonic() -> None:
    robot = franka()
    times = [robot.reset(np.random.default_rng(0)).time_s]
    snapshot = robot.snapshot()
    times.append(robot.step(act(0, 0, 0.01)).observation.time_s)
    robot.restore(snapshot)
    times.append(robot.observe().time_s)
    times.append(robot.reset(np.random.default_rng(1)).time_s)
    assert times == sorted(times)
    assert times[1] - times[0] == pytest.approx(robot.spec.step_s, abs=0.02)
    assert robot.simulated_s == times[-1]


def test_snapshot_of_another_scene_is_refused() -> None:
    robot = franka()
    robot.reset(np.random.default_rng(0))
    old = robot.snapshot()
    robot.reset(np.random.default_rng(0))
    with pytest.raises(RobotError, match="another"):
        robot.restore(old)


def test_twin_is_independent_and_identical() -> None:
    robot = franka(scene="pick_wipe")
    robot.reset(np.random.default_rng(2))
    before = robot.snapshot().physics
    twin = robot.twin()
    after = play(twin, random_actions(6))
    np.testing.assert_array_equal(robot.snapshot().physics, before)
    np.testing.assert_array_equal(play(robot, random_actions(6)), after)
    np.testing.assert_array_equal(robot.render(), twin.render())
    twin.close()
    robot.observe()


def test_twins_run_in_threads() -> None:
    robot = franka()
    robot.reset(np.random.default_rng(2))
    twins = [robot.twin() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda twin: play(twin, random_actions(6)), twins))
    expected = play(robot, random_actions(6))
    for result in results:
        np.testing.assert_array_equal(result, expected)


def test_step_and_advance_are_equivalent() -> None:
    robot = franka()
    robot.reset(np.random.default_rng(2))
    twin = robot.twin()
    for action in random_actions(3):
        np.testing.assert_array_equal(robot.step(action).applied, twin.advance(action))
    np.testing.assert_array_equal(robot.snapshot().physics, twin.snapshot().physics)


def make_unstable(robot: SimulatedFranka) -> None:
    robot._data.qvel[:] = np.nan


@pytest.mark.parametrize("scene", ["bin", "pick_wipe"])
def test_unstable_simulation_is_a_fault_until_recover(scene: str) -> None:
    robot = franka(scene=scene)
    robot.reset(np.random.default_rng(0))
    robot.advance(act(0.0, 0.02, 0.0))
    pose = robot.observe().state
    make_unstable(robot)
    with pytest.raises(RobotFault, match="unstable"):
        robot.advance(act(0.0, 0.02, 0.0))
    np.testing.assert_array_equal(robot.observe().state, pose)
    for call in (lambda: robot.advance(act(0, 0, 0)), lambda: robot.reset(np.random.default_rng(1)), robot.twin):
        with pytest.raises(RobotFault, match="recover"):
            call()
    robot.recover()
    robot.advance(act(0.0, 0.02, 0.0))
    assert robot.hand()[1] == pytest.approx(pose[1] + 0.02, abs=0.002)
    robot.reset(np.random.default_rng(1))


def test_only_spec_works_before_the_first_reset() -> None:
    robot = franka()
    assert robot.spec.name == "franka"
    for call in (robot.observe, robot.render, robot.task_success, robot.snapshot, robot.hand, lambda: robot.scene):
        with pytest.raises(RobotError, match="reset"):
            call()


def test_nothing_works_after_close() -> None:
    robot = franka()
    robot.reset(np.random.default_rng(0))
    robot.close()
    robot.close()
    for call in (robot.observe, lambda: robot.step(act(0, 0, 0)), lambda: robot.reset(np.random.default_rng(0))):
        with pytest.raises(RobotError, match="closed"):
            call()


def test_objects_stay_above_the_floor_in_random_play() -> None:
    robot = franka()
    for seed in range(4):
        robot.reset(np.random.default_rng(seed))
        play(robot, random_actions(12, seed))
        for placed in robot.scene.objects:
            assert robot.position(placed.name)[2] > -0.01


def test_start_pose_is_above_the_bin_and_in_view() -> None:
    robot = franka()
    camera = robot.spec.camera
    for seed in range(8):
        hand = robot.reset(np.random.default_rng(seed)).state[:3]
        assert hand[2] > 0.12
        x, y = camera.project(hand[None])[0]
        assert 0 < x < camera.width_px
        assert 0 < y < camera.height_px


def test_closing_on_a_tool_grasps_it() -> None:
    robot = franka(scene="pick_wipe", split="test")
    robot.reset(np.random.default_rng(0))
    task = robot.scene.task
    assert task is not None
    for height_m, gripper in ((0.1, OPEN), (0.1, OPEN), (0.012, CLOSE)):
        x, y, z = robot.position(task.tool.name) + np.array([0, 0, height_m]) - robot.hand()
        robot.advance(act(x, y, z, gripper))
    state = robot.step(act(0, 0, 0.1, CLOSE)).observation.state
    assert 0.1 < state[4] < 0.9
    assert robot.position(task.tool.name)[2] > 0.08


@pytest.mark.parametrize(
    "change", [{"scene": "kitchen"}, {"split": "validation"}, {"step_s": 0.0}, {"contact_limit_n": -1.0}, {"speed": 1}]
)
def test_invalid_configuration_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        config(**change)
