"""Readiness checks of a Franka over ROS. Nothing is commanded and nothing moves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import rospy
from sensor_msgs.msg import JointState

from robot_bridge.franka import checks
from robot_bridge.franka.checks import CheckResult, run_check
from robot_bridge.franka.config import FrankaRosConfig
from robot_bridge.franka.state import pose_error_m
from robot_bridge.kinematics import Kinematics
from robot_bridge.robot import RobotError
from robot_bridge.ros import names
from robot_bridge.ros.driver import Driver, Master, detect_generation
from robot_bridge.ros.gripper import RosGripper
from robot_bridge.ros.messages import RELEASES, Types, expected, load
from robot_bridge.ros.subscribers import RosImageSubscriber, RosStateSubscriber

_CLOCK_S = 0.1  # ours: images are stamped by the clock of the camera's machine


def run_checks(config: FrankaRosConfig) -> Iterator[CheckResult]:
    """Yield the result of each check; checks of parts that depend on a missing one are skipped."""
    timeout_s = config.connect_timeout_s
    kinematics = Kinematics(margin_rad=config.motion.joint_margin_rad)
    yield run_check("workspace", lambda: checks.reach(config, kinematics))
    master = run_check("master", lambda: f"{Master('ghvae_doctor', timeout_s).uri} answers")
    yield master
    if master.passed:
        with closing(RosImageSubscriber(config.images, config.camera)) as images:
            yield run_check("camera", lambda: checks.camera(images))
        found: list[Types] = []
        yield run_check("driver", lambda: _driver(found, timeout_s))
        for types in found:
            yield from _check_arm(config, kinematics, types)


def _check_arm(config: FrankaRosConfig, kinematics: Kinematics, types: Types) -> Iterator[CheckResult]:
    timeout_s = config.connect_timeout_s
    with closing(RosStateSubscriber(types, config.motion.max_state_age_s)) as states:
        drivers: list[Driver] = []  # at most one, if its services answer
        yield run_check("topics", _topics)
        yield run_check("state", lambda: checks.rate(states))
        yield run_check("clock", lambda: _clock(timeout_s))
        yield run_check("services", lambda: _services(drivers, types, timeout_s))
        yield run_check("mode", lambda: checks.mode(states.fresh()))
        yield run_check("hand", lambda: checks.hand(config, states.fresh()))
        if drivers:
            yield run_check("frame", lambda: _frame(drivers[0], states, kinematics))
        yield run_check("gripper", lambda: _gripper(config, types))


def _driver(found: list[Types], timeout_s: float) -> str:
    generation = detect_generation(timeout_s)
    found.append(load(generation))
    md5 = expected(generation)["franka_core_msgs/RobotState"]
    return f"franka_ros {RELEASES[generation]}, by the md5 {md5} of its RobotState"


def _topics() -> str:
    types = {
        names.ROBOT_STATE: "franka_core_msgs/RobotState",
        names.TIP_STATE: "franka_core_msgs/EndPointState",
        names.JOINT_STATES: "sensor_msgs/JointState",
        names.FINGER_STATES: "sensor_msgs/JointState",
    }
    published = dict(rospy.get_published_topics())
    wrong = [
        f"{topic} of type {published.get(topic, 'none')}"
        for topic, type_ in types.items()
        if published.get(topic) != type_
    ]
    if wrong:
        raise RobotError(f"expected {', '.join(types)}, got {', '.join(wrong)}; start all nodes of the driver")
    return f"all {len(types)} are published with their types"


def _clock(timeout_s: float) -> str:
    try:
        message = rospy.wait_for_message(names.JOINT_STATES, JointState, timeout_s)
    except rospy.ROSException as error:
        raise RobotError(f"{names.JOINT_STATES}: expected a message, got '{error}'; check the driver") from error
    ahead_s = message.header.stamp.to_sec() - time.time()
    if abs(ahead_s) > _CLOCK_S:
        raise RobotError(
            f"expected the driver's clock within {_CLOCK_S:g} s of this machine's, got {ahead_s:+.2f} s; "
            "synchronise both with one time server (chrony)"
        )
    return f"the driver's clock differs by {1000 * ahead_s:+.0f} ms"


def _services(drivers: list[Driver], types: Types, timeout_s: float) -> str:
    driver = Driver(types, timeout_s)
    driver.check_controllers()
    drivers.append(driver)
    return "the controllers are loaded, no other program controls the arm, error recovery answers"


def _frame(driver: Driver, states: RosStateSubscriber, kinematics: Kinematics) -> str:
    state = states.fresh()
    driver.check_hand(state, kinematics)
    return f"the Franka hand, {1000 * pose_error_m(state, kinematics):.1f} mm off the pose computed from the joints"


def _gripper(config: FrankaRosConfig, types: Types) -> str:
    with closing(RosGripper(config.gripper, types, config.connect_timeout_s)) as device:
        return f"all four actions answer, the fingers are {1000 * device.width_m():.0f} mm apart"
