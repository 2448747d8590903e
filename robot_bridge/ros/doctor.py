"""Is a Franka over ROS ready? Everything is asked, nothing is commanded and nothing moves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np
import rospy
from sensor_msgs.msg import JointState

from robot_bridge import modes
from robot_bridge.finding import Finding, look
from robot_bridge.kinematics import Kinematics
from robot_bridge.motion import check_reach
from robot_bridge.robot import RobotError
from robot_bridge.ros import names
from robot_bridge.ros.configuration import FrankaRosConfig
from robot_bridge.ros.driver import Driver, recognise
from robot_bridge.ros.fingers import RosFingers
from robot_bridge.ros.images import ImageFeed
from robot_bridge.ros.master import Master
from robot_bridge.ros.messages import RELEASES, Types, expected, load
from robot_bridge.ros.state import ArmState, StateFeed

_WATCH_S = 2.0  # of every stream, to count it
_STATE_HZ = 50.0  # ours: fewer, and states are older than a tick of the stream is worth
_CAMERA_HZ = 5.0  # ours: fewer, and a step waits for its picture
_CLOCK_S = 0.1  # ours: pictures are dated by the clock of the machine that the camera is on
_HELP = {
    modes.USER_STOPPED: "release the user stop, and look why it was pressed",
    modes.GUIDING: "let go of the arm, and close the guiding mode",
    modes.REFLEX: "look at what the arm touches; run_collection and run_task free it at their start",
    modes.RECOVERING: "wait until the arm has recovered",
}


def examine(config: FrankaRosConfig) -> Iterator[Finding]:
    """Yield a finding on each part; where one is missing, those that need it are left out."""
    timeout_s = config.connect_timeout_s
    kinematics = Kinematics(margin_rad=config.motion.joint_margin_rad)
    yield look("workspace", lambda: _reach(config, kinematics))
    master = look("master", lambda: f"{Master('ghvae_doctor', timeout_s).uri} answers")
    yield master
    if master.is_good:
        with closing(ImageFeed(config.images, config.camera)) as images:
            yield look("camera", lambda: _camera(images))
        found: list[Types] = []
        yield look("driver", lambda: _driver(found, timeout_s))
        for types in found:
            yield from _examine_arm(config, kinematics, types)


def _examine_arm(config: FrankaRosConfig, kinematics: Kinematics, types: Types) -> Iterator[Finding]:
    timeout_s = config.connect_timeout_s
    with closing(StateFeed(types, config.motion.state_age_s)) as feed:
        drivers: list[Driver] = []  # one, if it can be met
        yield look("topics", _topics)
        yield look("state", lambda: _state(feed))
        yield look("clock", lambda: _clock(timeout_s))
        yield look("services", lambda: _services(drivers, types, timeout_s))
        yield look("mode", lambda: _mode(feed.fresh()))
        yield look("hand", lambda: _hand(config, feed.fresh()))
        if drivers:
            yield look("frame", lambda: _frame(drivers[0], feed, kinematics))
        yield look("gripper", lambda: _gripper(config, types))


def _reach(config: FrankaRosConfig, kinematics: Kinematics) -> str:
    check_reach(kinematics, config.limits)
    return "every corner is within reach, with the hand pointing down"


def _driver(found: list[Types], timeout_s: float) -> str:
    generation = recognise(timeout_s)
    found.append(load(generation))
    md5 = expected(generation)["franka_core_msgs/RobotState"]
    return f"franka_ros {RELEASES[generation]}, by the md5 {md5} of its RobotState"


def _topics() -> str:
    wanted = {
        names.ROBOT_STATE: "franka_core_msgs/RobotState",
        names.TIP_STATE: "franka_core_msgs/EndPointState",
        names.JOINT_STATES: "sensor_msgs/JointState",
        names.FINGER_STATES: "sensor_msgs/JointState",
    }
    there = dict(rospy.get_published_topics())
    wrong = [f"{topic} of {there.get(topic, 'nobody')}" for topic, type_ in wanted.items() if there.get(topic) != type_]
    if wrong:
        raise RobotError(f"expected {', '.join(wanted)}, got {', '.join(wrong)}; start the driver whole")
    return f"all {len(wanted)} are published with their types"


def _state(feed: StateFeed) -> str:
    rate_hz = _count(lambda than_s: _whole(feed, than_s))
    if rate_hz < _STATE_HZ:
        raise RobotError(f"expected at least {_STATE_HZ:g} states a second, got {rate_hz:.0f}; look at the network")
    return f"{rate_hz:.0f} a second, the last {time.monotonic() - feed.fresh().time_s:.3f} s old"


def _whole(feed: StateFeed, than_s: float) -> float:
    """Wait until all parts of a state have come anew, and return when."""
    feed.newer(than_s, _WATCH_S)
    return time.monotonic()


def _camera(images: ImageFeed) -> str:
    rate_hz = _count(lambda than_s: images.newer(than_s)[1])
    picture, came_s = images.newer(time.monotonic())
    if rate_hz < _CAMERA_HZ:
        raise RobotError(f"expected at least {_CAMERA_HZ:g} pictures a second, got {rate_hz:.1f}; look at the camera")
    height, width, _ = picture.shape
    age_s = time.monotonic() - came_s
    return f"{height}x{width}, {rate_hz:.0f} a second, the last {age_s:.2f} s old, brightness {picture.mean():.0f}"


def _count(newer: Callable[[float], float]) -> float:
    """Return how many a second of a stream come; `newer` waits for one after a time and says when it came."""
    first_s = last_s = newer(time.monotonic())
    n = 0
    while last_s - first_s < _WATCH_S:
        last_s = newer(last_s)
        n += 1
    return n / (last_s - first_s)


def _clock(timeout_s: float) -> str:
    try:
        message = rospy.wait_for_message(names.JOINT_STATES, JointState, timeout_s)
    except rospy.ROSException as error:
        raise RobotError(f"{names.JOINT_STATES}: expected a message, got '{error}'; look at the driver") from error
    ahead_s = message.header.stamp.to_sec() - time.time()
    if abs(ahead_s) > _CLOCK_S:
        raise RobotError(
            f"expected the driver's clock within {_CLOCK_S:g} s of this machine's, got {ahead_s:+.2f} s; let "
            "both follow one time server (chrony)"
        )
    return f"the driver's is {1000 * ahead_s:+.0f} ms off this machine's"


def _services(drivers: list[Driver], types: Types, timeout_s: float) -> str:
    driver = Driver(types, timeout_s)
    driver.check_controllers()
    drivers.append(driver)
    return "the controllers are loaded, nobody else drives, error recovery answers"


def _mode(state: ArmState) -> str:
    if state.mode not in {modes.IDLE, modes.MOVING} or state.errors:
        help_ = _HELP.get(state.mode, "look at the driver's own log")
        raise RobotError(f"expected an arm that may move, got mode {state.mode} {', '.join(state.errors)}; {help_}")
    return f"{'idle' if state.mode == modes.IDLE else 'ready to move'}, no error"


def _hand(config: FrankaRosConfig, state: ArmState) -> str:
    low, high = np.array(config.limits.workspace_low_m), np.array(config.limits.workspace_high_m)
    place = state.hand_m.round(3).tolist()
    if state.hand_m[2] < low[2] - config.motion.workspace_margin_m:
        raise RobotError(f"expected the hand above {low[2]:g} m, got {place}; guide it above the bin by hand")
    is_inside = ((state.hand_m >= low) & (state.hand_m <= high)).all()
    return f"at {place} m, {'inside' if is_inside else 'outside, from where a reset brings it into'} the workspace"


def _frame(driver: Driver, feed: StateFeed, kinematics: Kinematics) -> str:
    state = feed.fresh()
    driver.check_hand(state, kinematics)
    off_m = float(np.linalg.norm(kinematics.hand(state.joints_rad) - state.hand_m))
    return f"the Franka hand's, {1000 * off_m:.1f} mm off where the joints put it"


def _gripper(config: FrankaRosConfig, types: Types) -> str:
    with closing(RosFingers(config.gripper, types, config.connect_timeout_s)) as fingers:
        return f"all four actions answer, the fingers are {1000 * fingers.width_m():.0f} mm apart"
