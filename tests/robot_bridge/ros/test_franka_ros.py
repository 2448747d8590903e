"""The Franka over ROS when something is wrong with the arm, the hand, the camera or the driver."""

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
from robot_bridge.kinematics import FLANGE_TO_HAND_RAD, FLANGE_TO_TCP_M, HOME_RAD
from robot_bridge.robot import CLOSE, OPEN, CameraFault, Robot, RobotFault
from robot_bridge.ros import names
from robot_bridge.ros.driver import DriverError
from robot_bridge.ros.messages import load
from tests.robot_bridge.robot_contract import act
from tests.robot_bridge.ros.bridge import config
from tests.robot_bridge.ros.rig import Rig

pytestmark = pytest.mark.ros

SETTINGS = ("robot.gripper.homes=false", "robot.gripper.timeout_s=2.0", "robot.images.timeout_s=1.0")


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


def test_a_reflex_stops_the_arm_until_it_is_freed(rig: Rig, robot: Robot) -> None:
    rig.fault("reflex")
    with pytest.raises(RobotFault, match=r"the arm stopped itself \(cartesian_reflex\); call recover"):
        robot.step(act(0.02, 0, 0))
    n = len(rig.events("recovery"))
    robot.recover()
    assert len(rig.events("recovery")) == n + 1
    robot.reset(np.random.default_rng(1))
    assert robot.step(act(0.02, 0, 0)).applied[0] == pytest.approx(0.02)


def test_after_three_reflexes_of_an_episode_it_parks_for_a_person(rig: Rig, robot: Robot) -> None:
    for _ in range(2):
        rig.fault("reflex")
        robot.recover()
    rig.fault("reflex")
    n = len(rig.events("recovery"))
    with pytest.raises(RobotFault, match="3 reflexes in this episode and 3 in an hour, of at most 3 and 12"):
        robot.recover()
    with pytest.raises(RobotFault, match="3 reflexes"):
        robot.recover()
    with pytest.raises(RobotFault, match="3 reflexes"):
        robot.reset(np.random.default_rng(0))
    assert len(rig.events("recovery")) == n + 1
    assert np.abs(joints() - HOME_RAD).max() < 0.02  # parked


def test_a_parked_arm_tells_somebody_once(rig: Rig, tmp_path: Any) -> None:
    told = tmp_path / "told"
    script = f'echo "$1" >> {told}'
    alert = f'robot.recovery.notify_command=["sh", "-c", {script!r}, "alert"]'
    robot = open_robot(config((*SETTINGS, "robot.recovery.per_episode=0", alert)))
    rig.fault("reflex")
    for _ in range(2):
        with pytest.raises(RobotFault, match="0 reflexes in this episode"):
            robot.recover()
    robot.close()
    assert told.read_text().count("look at the scene") == 1


def test_a_person_who_stops_it_is_never_overruled(rig: Rig, robot: Robot) -> None:
    rig.fault("user_stop")
    n = len(rig.events("recovery"))
    for _ in range(2):
        with pytest.raises(RobotFault, match="a person has stopped the arm"):
            robot.step(act(0.02, 0, 0))
        with pytest.raises(RobotFault, match="a person has stopped the arm"):
            robot.recover()
    rig.fault("clear")
    with pytest.raises(RobotFault, match="start this command again"):
        robot.reset(np.random.default_rng(0))
    assert len(rig.events("recovery")) == n


@pytest.mark.parametrize("fault", ["joint_state_stale", "nan_state"])
def test_without_a_state_nothing_moves(rig: Rig, robot: Robot, fault: str) -> None:
    rig.fault(fault)
    n = len(rig.events("command"))
    with pytest.raises(RobotFault, match=r"expected a (state of the last 0\.2 s|finite state)"):
        robot.step(act(0.02, 0, 0))
    assert len(rig.events("command")) == n
    rig.fault("clear")
    robot.recover()
    robot.observe()


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("camera_frozen", "a frozen camera"),
        ("camera_silent", "none newer than the motion"),
        ("camera_dark", "mean brightness"),
        ("camera_saturated", "mean brightness"),
    ],
)
def test_a_camera_that_shows_no_present_is_a_fault(rig: Rig, robot: Robot, fault: str, told: str) -> None:
    rig.fault(fault)
    with pytest.raises(CameraFault, match=told):
        robot.observe()
    rig.fault("clear")
    robot.recover()
    robot.observe()


def test_closing_on_nothing_is_no_fault(rig: Rig, robot: Robot) -> None:
    rig.fault("gripper_misses")
    assert robot.step(act(0, 0, 0, CLOSE)).observation.state[4] < 0.1
    rig.fault("clear")
    assert robot.step(act(0, 0, 0, OPEN)).observation.state[4] > 0.9


def test_the_hand_is_asked_only_when_that_changes(rig: Rig, robot: Robot) -> None:
    n = len(rig.events("gripper"))
    for _ in range(2):
        robot.step(act(0, 0, 0, CLOSE))
    assert len(rig.events("gripper")) == n + 1  # a grasp
    for _ in range(2):
        robot.step(act(0, 0, 0, OPEN))
    assert len(rig.events("gripper")) == n + 3  # a stop, and a move


def test_fingers_that_are_blocked_are_opened_above(rig: Rig, robot: Robot) -> None:
    robot.step(act(0, 0, -0.2, CLOSE))
    rig.fault("gripper_blocked")
    with pytest.raises(RobotFault, match=r"expected fingers 0\.08 m apart, got 0\.0.. m; free them"):
        robot.step(act(0, 0, 0, OPEN))
    robot.recover()
    assert robot.reset(np.random.default_rng(0)).state[4] > 0.9


def test_a_hand_that_hangs_is_waited_for_as_long_as_it_may(rig: Rig, robot: Robot) -> None:
    rig.fault("gripper_hangs")
    with pytest.raises(RobotFault, match="franka_gripper/grasp: expected an end within 2 s, got none"):
        robot.step(act(0, 0, 0, CLOSE))
    rig.fault("clear")
    robot.recover()
    robot.reset(np.random.default_rng(0))
    assert robot.step(act(0, 0, 0, CLOSE)).observation.state[4] < 0.1


def test_the_driver_is_told_from_which_force_on_it_stops(rig: Rig) -> None:
    reflex = "robot.reflex.forces=[12.0, 13.0, 14.0, 15.0, 16.0, 17.0]"
    open_robot(config((*SETTINGS, reflex))).close()
    assert rig.events("thresholds")[-1]["forces"] == [12.0, 13.0, 14.0, 15.0, 16.0, 17.0]


def test_another_frame_of_the_hand_is_refused(rig: Rig) -> None:
    c, s = np.cos(FLANGE_TO_HAND_RAD), np.sin(FLANGE_TO_HAND_RAD)
    hand = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, FLANGE_TO_TCP_M], [0, 0, 0, 1]])
    longer = hand.copy()
    longer[2, 3] += 0.05
    call(names.SET_EE_FRAME, "franka_msgs/SetEEFrame", F_T_EE=longer.T.ravel().tolist())
    try:
        with pytest.raises(DriverError, match=r"F_T_EE: expected the Franka hand, 0\.1034 m along z"):
            open_robot(config(SETTINGS))
    finally:
        call(names.SET_EE_FRAME, "franka_msgs/SetEEFrame", F_T_EE=hand.T.ravel().tolist())


def test_an_arm_that_somebody_else_drives_is_refused(rig: Rig) -> None:
    command = load()["franka_core_msgs/JointCommand"]
    publisher = rospy.Publisher(names.JOINT_COMMANDS, command, queue_size=1)
    ends = threading.Event()

    def drive() -> None:
        while not ends.wait(0.02):
            publisher.publish(command(mode=command.VELOCITY_MODE, names=names.JOINTS, velocity=[0.0] * 7))

    thread = threading.Thread(target=drive)
    thread.start()
    try:
        time.sleep(0.5)
        with pytest.raises(DriverError, match=f"expected an arm that nobody drives, got {names.OTHER_CONTROLLERS[0]}"):
            open_robot(config(SETTINGS))
    finally:
        ends.set()
        thread.join()
        publisher.unregister()


def test_a_driver_that_is_not_there_is_named(master: Rig) -> None:
    with pytest.raises(DriverError, match="start franka_ros_interface, or rehearse with python -m"):
        open_robot(config((*SETTINGS, "robot.connect_timeout_s=0.5")))
