"""The Franka without ROS when something is wrong with the arm, the camera, or whoever commands it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from configs.interruption import interruption
from configs.loader import Config, load
from robot_bridge.factory import open_robot, run_checks
from robot_bridge.kinematics import HOME_RAD
from robot_bridge.robot import CLOSE, OPEN, CameraFault, RobotError, RobotFault
from robot_bridge.simulation.config import SimulationConfig
from robot_bridge.simulation.scene import build
from tests.robot_bridge.libfranka.rig import Rig
from tests.robot_bridge.robot_contract import act

pytestmark = pytest.mark.libfranka

SETTINGS = ("robot.gripper.homes=false", "robot.images.timeout_s=1.0")
REST_RAD_S = 0.03


class _Sections(Config):
    robot: SimulationConfig


@pytest.fixture
def robot(rig: Rig) -> Iterator[Any]:
    """A robot whose parts are looked into."""
    robot = open_robot(rig.config(SETTINGS))
    try:
        robot.reset(np.random.default_rng(0))
        yield robot
    finally:
        robot.close()


def test_a_reflex_stops_the_arm_until_it_is_freed(rig: Rig, robot: Any) -> None:
    rig.fault("reflex")
    with pytest.raises(RobotFault, match=r"the arm stopped itself \(cartesian_reflex\); call recover"):
        robot.step(act(0.02, 0, 0))
    robot.recover()
    robot.reset(np.random.default_rng(1))
    assert robot.step(act(0.02, 0, 0)).applied[0] == pytest.approx(0.02)


def test_a_reflex_in_the_middle_of_a_motion_is_told(rig: Rig, robot: Any) -> None:
    timer = threading.Timer(0.2, rig.fault, ["reflex"])
    timer.start()
    with pytest.raises(RobotFault, match=r"the arm stopped itself|reflex"):
        robot.step(act(0.1, 0.1, 0))
    timer.join()
    robot.recover()
    robot.observe()


def test_after_three_reflexes_of_an_episode_it_parks_for_a_person(rig: Rig, robot: Any) -> None:
    for _ in range(2):
        rig.fault("reflex")
        robot.recover()
    rig.fault("reflex")
    for _ in range(2):
        with pytest.raises(RobotFault, match="3 reflexes in this episode and 3 in an hour, of at most 3 and 12"):
            robot.recover()
    with pytest.raises(RobotFault, match="3 reflexes"):
        robot.reset(np.random.default_rng(0))
    assert np.abs(robot._states.newer(time.monotonic(), 1.0).joints_rad - HOME_RAD).max() < 0.02  # parked


def test_a_person_who_stops_it_is_never_overruled(rig: Rig, robot: Any) -> None:
    rig.fault("user_stop")
    for _ in range(2):
        with pytest.raises(RobotFault, match="a person has stopped the arm"):
            robot.step(act(0.02, 0, 0))
        with pytest.raises(RobotFault, match="a person has stopped the arm"):
            robot.recover()
    rig.fault("clear")
    with pytest.raises(RobotFault, match="start this command again"):
        robot.reset(np.random.default_rng(0))


def test_an_arm_that_falls_silent_is_not_commanded_on(rig: Rig, robot: Any) -> None:
    timer = threading.Timer(0.2, os.kill, [rig.process.pid, signal.SIGSTOP])
    timer.start()
    try:
        with pytest.raises(RobotFault, match="expected"):
            robot.step(act(0.1, 0.1, 0))
        with pytest.raises(RobotFault, match="expected"):
            robot.step(act(0.02, 0, 0))
    finally:
        timer.join()
        os.kill(rig.process.pid, signal.SIGCONT)


def test_ctrl_c_stops_the_arm_first(robot: Any) -> None:
    timer = threading.Timer(0.25, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    began_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt), interruption():
        robot.step(act(0.1, 0.15, 0))
    state = robot._states.newer(time.monotonic(), 1.0)
    assert time.monotonic() - began_s < 2.0
    assert np.abs(state.desired_rad - robot._states.newer(time.monotonic(), 1.0).desired_rad).max() < 1e-6
    time.sleep(0.3)
    assert np.abs(robot._states.newer(time.monotonic(), 1.0).speeds_rad_s).max() < REST_RAD_S


def test_an_arm_that_nobody_looks_at_is_stopped(robot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = robot._states.fresh

    def slow() -> Any:
        time.sleep(0.3)
        return fresh()

    monkeypatch.setattr(robot._states, "fresh", slow)
    with pytest.raises(RobotFault, match=r"nobody looked at the arm for 0\.[3-9]. s, more than 0\.2 s; it is stopped"):
        robot.step(act(0.1, 0.1, 0))


def test_a_hand_that_comes_down_on_something_stays_above_it(robot: Any) -> None:
    shipped = load(_Sections, {"robot": "robots/simulation.yaml"}).robot
    rng = np.random.default_rng(0).spawn(2)[0]  # the arm's own scene
    thing = build(rng, "bin", "train", shipped.camera, shipped.camera_jitter).objects[0]
    hand = robot.observe().state
    robot.step(act(thing.at_m[0] - hand[0], thing.at_m[1] - hand[1], 0.22 - hand[2], CLOSE))
    step = robot.step(act(0, 0, -0.2, CLOSE))
    assert step.applied[2] < -0.15
    assert step.observation.state[2] > 0.22 + step.applied[2] + 0.008, step.observation.state
    assert robot.step(act(0, 0, 0.1, CLOSE)).observation.state[2] > 0.1


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("frozen", "a frozen camera"),
        ("silent", "none newer than the motion"),
        ("dark", "mean brightness"),
        ("saturated", "mean brightness"),
    ],
)
def test_a_camera_that_shows_no_present_is_a_fault(rig: Rig, robot: Any, fault: str, told: str) -> None:
    rig.fault(fault)
    with pytest.raises(CameraFault, match=told):
        robot.observe()
    rig.fault("clear")
    robot.recover()
    robot.observe()


def test_closing_on_nothing_is_no_fault(robot: Any) -> None:
    assert robot.step(act(0, 0, 0, CLOSE)).observation.state[4] < 0.1
    assert robot.step(act(0, 0, 0, OPEN)).observation.state[4] > 0.9


def test_an_arm_that_is_not_there_is_named(rig: Rig) -> None:
    with pytest.raises(RobotError, match=r"127\.0\.254\.9: expected an arm, got '.*'; open its brakes and FCI in Desk"):
        open_robot(rig.config(("robot.host=127.0.254.9",)))


def test_an_arm_that_another_program_holds_is_not_waited_for(rig: Rig, robot: Any) -> None:
    with pytest.raises(RobotError, match=r"expected an answer within 1 s, got none; end whatever else is connected"):
        open_robot(rig.config((*SETTINGS, "robot.connect_timeout_s=1.0")))


def test_an_arm_in_good_health_is_ready_and_a_reflex_is_told(rig: Rig) -> None:
    found = {result.name: result for result in run_checks(rig.config(SETTINGS))}
    assert set(found) == {"workspace", "camera", "arm", "state", "mode", "hand", "frame", "gripper"}
    assert all(result.passed for result in found.values()), found
    rig.fault("reflex")
    wrong = [result for result in run_checks(rig.config(SETTINGS)) if not result.passed]
    assert [result.name for result in wrong] == ["mode"]
    assert "cartesian_reflex" in wrong[0].detail
