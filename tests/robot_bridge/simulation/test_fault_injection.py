"""Fault injection, and scenes kept over several resets."""

from __future__ import annotations

import multiprocessing
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from robot_bridge.factory import open_robot
from robot_bridge.robot import CLOSE, OPEN, RobotFault
from robot_bridge.simulation.config import FaultInjectionConfig
from robot_bridge.simulation.fault_injection import FaultInjectingFranka
from robot_bridge.simulation.franka import SimulatedFranka
from tests.robot_bridge import simulated

UP = np.array([0.0, 0.0, 0.02, OPEN], np.float32)


def faulty(**fault_injection: object) -> FaultInjectingFranka:
    robot = open_robot(simulated.config(fault_injection=FaultInjectionConfig.model_validate(fault_injection)))
    assert isinstance(robot, FaultInjectingFranka)
    return robot


def test_scene_is_kept_for_resets_per_scene() -> None:
    robot = simulated.franka(resets_per_scene=2)
    rng = np.random.default_rng(0)
    scenes = []
    for _ in range(5):
        robot.reset(rng)
        scenes.append(robot.scene)
    assert scenes[0] is scenes[1] and scenes[2] is scenes[3] and len({id(scene) for scene in scenes}) == 3
    assert not robot.spec.renews_scene and simulated.franka().spec.renews_scene
    robot.close()


def test_reset_within_a_scene_moves_only_the_hand() -> None:
    robot = simulated.franka(resets_per_scene=0)
    robot.reset(np.random.default_rng(0))
    before = np.array([robot.position(placed.name) for placed in robot.scene.objects])
    robot.step(np.array([0.05, 0.05, 0.0, CLOSE], np.float32))
    first = robot.reset(np.random.default_rng(7))
    again = robot.reset(np.random.default_rng(7))
    assert first.state[4] > 0.9
    np.testing.assert_allclose(first.state[:3], again.state[:3], atol=0.006)
    after = np.array([robot.position(placed.name) for placed in robot.scene.objects])
    np.testing.assert_allclose(before, after, atol=0.005)
    robot.close()


def test_without_faults_the_plain_class_is_used() -> None:
    robot = open_robot(simulated.config())
    assert type(robot) is SimulatedFranka
    robot.close()


def test_injected_reflex_can_be_recovered(tmp_path: Path) -> None:
    robot = faulty(reflexes_per_reset=1.0, log=str(tmp_path / "log"))
    robot.reset(np.random.default_rng(0))
    with pytest.raises(RobotFault, match="the arm stopped"):
        for _ in range(5):
            robot.step(UP)
    with pytest.raises(RobotFault, match="was not recovered"):
        robot.step(UP)
    robot.recover()
    robot.step(UP)
    assert (tmp_path / "log").read_text() == "reflex\n"
    robot.close()


def test_frozen_camera_repeats_one_image_until_reset() -> None:
    robot = faulty(freezes_per_reset=1.0)
    robot.reset(np.random.default_rng(0))
    frames = [robot.step(np.array([0.0, (-1) ** t * 0.05, 0.0, OPEN], np.float32)).observation.image for t in range(8)]
    assert (frames[-1] == frames[-2]).all() and (frames[-1] == frames[4]).all()
    assert not (robot.reset(np.random.default_rng(1)).image == frames[-1]).all()
    robot.close()


def test_faults_occur_at_the_configured_rate() -> None:
    robot = faulty(reflexes_per_reset=0.3)
    robot._chance = np.random.default_rng(0)
    n = 0
    for seed in range(30):
        robot.reset(np.random.default_rng(seed))
        n += "reflex" in robot._due
    assert 4 <= n <= 15
    robot.close()


def _run_kill() -> None:
    robot = faulty(kills_per_reset=1.0)
    robot.reset(np.random.default_rng(0))
    for _ in range(5):
        robot.step(UP)


def _run_hang() -> None:
    robot = faulty(hangs_per_reset=1.0)
    robot.reset(np.random.default_rng(0))
    for _ in range(5):
        robot.step(UP)


def test_process_is_killed_or_hangs() -> None:
    context = multiprocessing.get_context("spawn")
    dying, hanging = context.Process(target=_run_kill), context.Process(target=_run_hang)
    dying.start()
    hanging.start()
    dying.join(60)
    assert dying.exitcode == -signal.SIGKILL
    time.sleep(1.0)
    assert hanging.is_alive()
    hanging.kill()
    hanging.join()
