"""Faults of the arm, the camera and the connection over libfranka."""

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
    """A robot after a reset; typed Any for access to its parts."""
    robot = open_robot(rig.config(SETTINGS))
    try:
        robot.reset(np.random.default_rng(0))
        yield robot
    finally:
        robot.close()


def stop_by_reflex(rig: Rig, robot: Any) -> None:
    """Stop the arm, and wait until the bridge has seen it: a state may arrive late."""
    rig.fault("reflex")
    with pytest.raises(RobotFault):
        robot.step(act(0.02, 0, 0))


def test_reflex_stops_the_arm_until_recovery(rig: Rig, robot: Any) -> None:
    rig.fault("reflex")
    with pytest.raises(RobotFault, match=r"the arm stopped \(cartesian_reflex\); run_doctor shows"):
        robot.step(act(0.02, 0, 0))
    robot.recover()
    robot.reset(np.random.default_rng(1))
    assert robot.step(act(0.02, 0, 0)).applied[0] == pytest.approx(0.02)


def test_reflex_during_motion_is_reported(rig: Rig, robot: Any) -> None:
    timer = threading.Timer(0.2, rig.fault, ["reflex"])
    timer.start()
    with pytest.raises(RobotFault, match=r"the arm stopped|reflex"):
        robot.step(act(0.1, 0.1, 0))
    timer.join()
    robot.recover()
    robot.observe()


def test_third_reflex_of_an_episode_parks_the_arm(rig: Rig, robot: Any) -> None:
    for _ in range(2):
        stop_by_reflex(rig, robot)
        robot.recover()
    stop_by_reflex(rig, robot)
    for _ in range(2):
        with pytest.raises(RobotFault, match="3 reflexes in this episode and 3 in an hour, of at most 3 and 12"):
            robot.recover()
    with pytest.raises(RobotFault, match="3 reflexes"):
        robot.reset(np.random.default_rng(0))
    assert np.abs(robot._states.newer(time.monotonic(), 1.0).joints_rad - HOME_RAD).max() < 0.02  # parked


def test_user_stop_is_final(rig: Rig, robot: Any) -> None:
    rig.fault("user_stop")
    for _ in range(2):
        with pytest.raises(RobotFault, match="the user stop was pressed"):
            robot.step(act(0.02, 0, 0))
        with pytest.raises(RobotFault, match="the user stop was pressed"):
            robot.recover()
    rig.fault("clear")
    with pytest.raises(RobotFault, match="start this command again"):
        robot.reset(np.random.default_rng(0))


def test_suspended_arm_is_not_commanded(rig: Rig, robot: Any) -> None:
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


def test_interrupted_monitoring_stops_the_arm(robot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = robot._states.fresh

    def slow() -> Any:
        time.sleep(0.3)
        return fresh()

    monkeypatch.setattr(robot._states, "fresh", slow)
    with pytest.raises(
        RobotFault, match=r"monitoring was interrupted for 0\.[3-9]. s, more than 0\.2 s; the arm was stopped"
    ):
        robot.step(act(0.1, 0.1, 0))


def test_descent_onto_an_object_stays_above_it(robot: Any) -> None:
    shipped = load(_Sections, {"robot": "robots/simulation.yaml"}).robot
    rng = np.random.default_rng(0).spawn(2)[0]  # the scene of the simulated arm
    target = build(rng, "bin", "train", shipped.camera, shipped.camera_jitter).objects[0]
    hand = robot.observe().state
    robot.step(act(target.at_m[0] - hand[0], target.at_m[1] - hand[1], 0.22 - hand[2], CLOSE))
    step = robot.step(act(0, 0, -0.2, CLOSE))
    assert step.applied[2] < -0.15
    assert step.observation.state[2] > 0.22 + step.applied[2] + 0.008, step.observation.state
    assert robot.step(act(0, 0, 0.1, CLOSE)).observation.state[2] > 0.1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("frozen", "a frozen camera"),
        ("silent", "none newer than the motion"),
        ("dark", "mean brightness"),
        ("saturated", "mean brightness"),
    ],
)
def test_faulty_camera_is_reported(rig: Rig, robot: Any, fault: str, message: str) -> None:
    rig.fault(fault)
    with pytest.raises(CameraFault, match=message):
        robot.observe()
    rig.fault("clear")
    robot.recover()
    robot.observe()


def test_closing_without_an_object_is_no_fault(robot: Any) -> None:
    assert robot.step(act(0, 0, 0, CLOSE)).observation.state[4] < 0.1
    assert robot.step(act(0, 0, 0, OPEN)).observation.state[4] > 0.9


def test_missing_arm_is_reported(rig: Rig) -> None:
    with pytest.raises(
        RobotError, match=r"127\.0\.254\.9: expected an arm, got '.*'; release its brakes and enable FCI in Desk"
    ):
        open_robot(rig.config(("robot.host=127.0.254.9",)))


def test_arm_in_use_times_out(rig: Rig, robot: Any) -> None:
    with pytest.raises(RobotError, match=r"expected a connection within 1 s, got none; close other connections"):
        open_robot(rig.config((*SETTINGS, "robot.connect_timeout_s=1.0")))


def test_ready_arm_passes_and_a_reflex_fails(rig: Rig) -> None:
    found = {result.name: result for result in run_checks(rig.config(SETTINGS))}
    assert set(found) == {"workspace", "camera", "arm", "state", "mode", "hand", "frame", "gripper"}
    assert all(result.passed for result in found.values()), found
    rig.fault("reflex")
    failed = [result for result in run_checks(rig.config(SETTINGS)) if not result.passed]
    assert [result.name for result in failed] == ["mode"]
    assert "cartesian_reflex" in failed[0].detail
