"""Faults of the arm, the hand, the camera and the driver over ROS."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rospy", reason="ROS is not installed; ./bootstrap.sh ros installs it")

import rospy
from numpy.typing import NDArray
from sensor_msgs.msg import JointState

from robot_bridge.factory import open_robot
from robot_bridge.kinematics import FLANGE_TO_TCP, HOME_RAD
from robot_bridge.robot import CLOSE, OPEN, CameraFault, Robot, RobotFault
from robot_bridge.ros import names
from robot_bridge.ros.driver import DriverError
from robot_bridge.ros.messages import load
from tests.patience import patience, relaxed
from tests.robot_bridge.robot_contract import act
from tests.robot_bridge.ros.configurations import config
from tests.robot_bridge.ros.rig import Rig

pytestmark = pytest.mark.ros

_MOST_REFLEXES = 2
SETTINGS = (
    "robot.gripper.homes=false",
    f"robot.gripper.timeout_s={relaxed(2.0, 30.0)}",
    f"robot.images.timeout_s={relaxed(1.0, 30.0)}",
)


@pytest.fixture
def robot(rig: Rig) -> Iterator[Robot]:
    robot = open_robot(config(SETTINGS))
    robot.reset(np.random.default_rng(0))
    yield robot
    robot.close()


def joints() -> NDArray[np.float64]:
    """Return the measured joints (7,)."""
    return np.array(rospy.wait_for_message(names.JOINT_STATES, JointState, 5.0).position)


def call(name: str, type_: str, **request: object) -> Any:
    return rospy.ServiceProxy(name, load()[type_])(**request)


def stop_by_reflex(rig: Rig, robot: Robot) -> None:
    """Stop the arm, and wait until the bridge has seen it: a state may arrive late."""
    rig.fault("reflex")
    with pytest.raises(RobotFault):
        robot.step(act(0.02, 0, 0))


def test_reflex_stops_the_arm_until_recovery(rig: Rig, robot: Robot) -> None:
    rig.fault("reflex")
    with pytest.raises(RobotFault, match=r"the arm stopped \(cartesian_reflex\); run_doctor shows"):
        robot.step(act(0.02, 0, 0))
    n = len(rig.events("recovery"))
    robot.recover()
    assert len(rig.events("recovery")) == n + 1
    robot.reset(np.random.default_rng(1))
    assert robot.step(act(0.02, 0, 0)).applied[0] == pytest.approx(0.02)


def test_third_reflex_of_an_episode_parks_the_arm(rig: Rig, robot: Robot) -> None:
    for _ in range(2):
        stop_by_reflex(rig, robot)
        robot.recover()
    stop_by_reflex(rig, robot)
    n = len(rig.events("recovery"))
    with pytest.raises(RobotFault, match="3 reflexes in this episode and 3 in an hour, of at most 3 and 12"):
        robot.recover()
    with pytest.raises(RobotFault, match="3 reflexes"):
        robot.recover()
    with pytest.raises(RobotFault, match="3 reflexes"):
        robot.reset(np.random.default_rng(0))
    assert len(rig.events("recovery")) == n + 1
    assert np.abs(joints() - HOME_RAD).max() < 0.02  # parked


def test_notify_command_runs_once(rig: Rig, tmp_path: Any) -> None:
    notes = tmp_path / "notes"
    script = f'echo "$1" >> {notes}'
    notify = f'robot.recovery.notify_command=["sh", "-c", {script!r}, "notify"]'
    robot = open_robot(config((*SETTINGS, "robot.recovery.per_episode=0", notify)))
    stop_by_reflex(rig, robot)
    for _ in range(2):
        with pytest.raises(RobotFault, match="0 reflexes in this episode"):
            robot.recover()
    robot.close()
    assert notes.read_text().count("inspect the scene") == 1


def test_user_stop_is_final(rig: Rig, robot: Robot) -> None:
    rig.fault("user_stop")
    n = len(rig.events("recovery"))
    for _ in range(2):
        with pytest.raises(RobotFault, match="the user stop was pressed"):
            robot.step(act(0.02, 0, 0))
        with pytest.raises(RobotFault, match="the user stop was pressed"):
            robot.recover()
    rig.fault("clear")
    with pytest.raises(RobotFault, match="start this command again"):
        robot.reset(np.random.default_rng(0))
    assert len(rig.events("recovery")) == n


@pytest.mark.parametrize("fault", ["joint_state_stale", "nan_state"])
def test_without_a_state_nothing_moves(rig: Rig, robot: Robot, fault: str) -> None:
    rig.fault(fault)
    n = len(rig.events("command"))
    with pytest.raises(RobotFault, match=r"expected a (state of the last .* s|finite state)"):
        robot.step(act(0.02, 0, 0))
    assert len(rig.events("command")) == n
    rig.fault("clear")
    robot.recover()
    robot.observe()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("camera_frozen", "a frozen camera"),
        ("camera_silent", "none newer than the motion"),
        ("camera_dark", "mean brightness"),
        ("camera_saturated", "mean brightness"),
    ],
)
def test_faulty_camera_is_reported(rig: Rig, robot: Robot, fault: str, message: str) -> None:
    rig.fault(fault)
    with pytest.raises(CameraFault, match=message):
        robot.observe()
    rig.fault("clear")
    robot.recover()
    robot.observe()


def test_closing_without_an_object_is_no_fault(rig: Rig, robot: Robot) -> None:
    rig.fault("gripper_misses")
    assert robot.step(act(0, 0, 0, CLOSE)).observation.state[4] < 0.1
    rig.fault("clear")
    assert robot.step(act(0, 0, 0, OPEN)).observation.state[4] > 0.9


def close_low(robot: Robot) -> None:
    """Lower the hand and close it; again after a reflex: on a busy machine late commands can cause one."""
    for _ in range(_MOST_REFLEXES):
        try:
            robot.step(act(0, 0, -0.2, CLOSE))
            return
        except RobotFault:
            robot.recover()
            robot.reset(np.random.default_rng(0))
    robot.step(act(0, 0, -0.2, CLOSE))


def test_gripper_is_commanded_only_on_changes(rig: Rig, robot: Robot) -> None:
    n = len(rig.events("gripper"))
    for _ in range(2):
        robot.step(act(0, 0, 0, CLOSE))
    assert len(rig.events("gripper")) == n + 1  # a grasp
    for _ in range(2):
        robot.step(act(0, 0, 0, OPEN))
    assert len(rig.events("gripper")) == n + 3  # a stop, and a move


def test_blocked_fingers_are_opened_after_raising(rig: Rig, robot: Robot) -> None:
    close_low(robot)
    rig.fault("gripper_blocked")
    with pytest.raises(RobotFault, match=r"expected fingers 0\.08 m apart, got 0\.0.. m; free them"):
        robot.step(act(0, 0, 0, OPEN))
    robot.recover()
    assert robot.reset(np.random.default_rng(0)).state[4] > 0.9


def test_hanging_gripper_times_out(rig: Rig, robot: Robot) -> None:
    rig.fault("gripper_hangs")
    with pytest.raises(RobotFault, match=r"franka_gripper/grasp: expected a result within .* s, got none"):
        robot.step(act(0, 0, 0, CLOSE))
    rig.fault("clear")
    robot.recover()
    robot.reset(np.random.default_rng(0))
    assert robot.step(act(0, 0, 0, CLOSE)).observation.state[4] < 0.1


def test_reflex_thresholds_are_set_at_start(rig: Rig) -> None:
    reflex = "robot.reflex.forces=[12.0, 13.0, 14.0, 15.0, 16.0, 17.0]"
    open_robot(config((*SETTINGS, reflex))).close()
    assert rig.events("thresholds")[-1]["forces"] == [12.0, 13.0, 14.0, 15.0, 16.0, 17.0]


def test_other_end_effector_is_refused(rig: Rig) -> None:
    longer = FLANGE_TO_TCP.copy()
    longer[2, 3] += 0.05
    call(names.SET_EE_FRAME, "franka_msgs/SetEEFrame", F_T_EE=longer.T.ravel().tolist())
    try:
        with pytest.raises(DriverError, match=r"F_T_EE: expected the Franka hand, 0\.1034 m along z"):
            open_robot(config(SETTINGS))
    finally:
        call(names.SET_EE_FRAME, "franka_msgs/SetEEFrame", F_T_EE=FLANGE_TO_TCP.T.ravel().tolist())


def test_arm_controlled_by_another_program_is_refused(rig: Rig) -> None:
    command = load()["franka_core_msgs/JointCommand"]
    publisher = rospy.Publisher(names.JOINT_COMMANDS, command, queue_size=1)
    stopped = threading.Event()

    def publish() -> None:
        while not stopped.wait(0.02):
            publisher.publish(command(mode=command.VELOCITY_MODE, names=names.JOINTS, velocity=[0.0] * 7))

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        # The driver needs time for the first command, and ends the controller whenever the next one is late.
        reason, deadline_s = f"expected no other running controller, got {names.OTHER_CONTROLLERS[0]}", patience(20)
        began_s = time.monotonic()
        with pytest.raises(DriverError, match=reason):
            while time.monotonic() < began_s + deadline_s:
                open_robot(config(SETTINGS)).close()
    finally:
        stopped.set()
        thread.join()
        publisher.unregister()


def test_missing_driver_is_reported(master: Rig) -> None:
    with pytest.raises(DriverError, match="start franka_ros_interface, or the simulated driver with python -m"):
        open_robot(config((*SETTINGS, "robot.connect_timeout_s=0.5")))
