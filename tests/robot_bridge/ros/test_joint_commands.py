"""Limits and timing of the stream of joint commands over ROS."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("rospy", reason="ROS is not installed; ./bootstrap.sh ros installs it")

import rospy

from robot_bridge.franka import recovery
from robot_bridge.franka.command_limits import StreamFault
from robot_bridge.franka.state import ArmState
from robot_bridge.kinematics import HOME_RAD, SPEED_LIMITS_RAD_S, Kinematics
from robot_bridge.robot import RobotFault
from robot_bridge.ros import names
from robot_bridge.ros.driver import Master
from robot_bridge.ros.joint_commands import JointCommandPublisher
from robot_bridge.ros.messages import load
from tests.patience import patience
from tests.robot_bridge.ros.configurations import config
from tests.robot_bridge.ros.rig import Rig

pytestmark = pytest.mark.ros

CONFIG = config()
KINEMATICS = Kinematics(margin_rad=CONFIG.motion.joint_margin_rad)
START = KINEMATICS.solve(HOME_RAD, np.array([0.5, 0.0, 0.15]))
BOUND = CONFIG.motion.speed_fraction * SPEED_LIMITS_RAD_S * CONFIG.motion.tick_s


def state(joints: NDArray[np.float64] = START) -> ArmState:
    hand = KINEMATICS.hand(joints)
    return ArmState(
        joints, np.zeros(7), joints, hand, 0.0, np.zeros(3), recovery.MOVING, (), np.eye(4), time.monotonic()
    )


@pytest.fixture
def sent(master: Rig) -> Iterator[list[NDArray[np.float64]]]:
    """Collect the published commands; no driver follows them."""
    Master("test_stream", 5.0)
    received: list[NDArray[np.float64]] = []
    subscriber = rospy.Subscriber(
        names.JOINT_COMMANDS, load()["franka_core_msgs/JointCommand"], lambda m: received.append(np.array(m.position))
    )
    yield received
    subscriber.unregister()


@pytest.fixture
def stream(sent: list[NDArray[np.float64]]) -> Iterator[JointCommandPublisher]:
    stream = JointCommandPublisher(CONFIG.motion, CONFIG.limits, KINEMATICS, load())
    stream.wait_for_driver(5.0)
    stream.begin(state(), np.full(3, np.inf), np.full(3, -np.inf))
    yield stream
    stream.close()


def test_limited_command_is_sent(stream: JointCommandPublisher, sent: list[NDArray[np.float64]]) -> None:
    stream.send(START + BOUND * 0.9, state())
    stream.send(stream.limit_step(START + 0.05), state())
    deadline_s = time.monotonic() + patience(5)
    while len(sent) < 2 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    np.testing.assert_allclose(sent[0], START + BOUND * 0.9)
    assert (np.abs(sent[1] - sent[0]) <= BOUND * 1.000001).all()


@pytest.mark.parametrize(
    ("commanded", "message"),
    [
        (np.full(7, np.nan), "finite"),
        (START + np.array([0, 0, np.inf, 0, 0, 0, 0]), "finite"),
        (START[:6], "finite"),
        (START + BOUND * 1.01, "of the last"),
        (START - 3 * BOUND, "of the last"),
    ],
)
def test_invalid_command_is_not_sent(
    stream: JointCommandPublisher, sent: list[NDArray[np.float64]], commanded: NDArray[np.float64], message: str
) -> None:
    with pytest.raises(StreamFault, match=message) as refused:
        stream.send(commanded, state())
    assert "\n" not in str(refused.value)
    time.sleep(0.1)
    assert not sent
    np.testing.assert_array_equal(stream.last_rad, START)


def test_limited_steps_are_sent(stream: JointCommandPublisher) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        commanded = START + rng.uniform(-0.02, 0.02, 7)
        stream.send(stream.limit_step(commanded), state(stream.last_rad))


def test_tracking_error_is_refused(stream: JointCommandPublisher, sent: list[NDArray[np.float64]]) -> None:
    with pytest.raises(StreamFault, match=r"within 0\.2 rad of the commanded joints"):
        stream.send(START, state(START + 0.21))
    with pytest.raises(StreamFault, match="within"):
        stream.send(START, state(START * np.nan))
    assert not sent


def test_hand_leaving_the_box_is_refused(stream: JointCommandPublisher, sent: list[NDArray[np.float64]]) -> None:
    inside = KINEMATICS.solve(START, np.array([0.5, 0.0, -0.006]))
    below = KINEMATICS.solve(inside, np.array([0.5, 0.0, -0.0095]))
    now = state(inside)
    stream.begin(now, np.full(3, np.inf), np.full(3, -np.inf))
    with pytest.raises(StreamFault, match="expected a hand between"):
        stream.send(below, now)
    assert not sent


def test_hand_outside_the_box_may_return(stream: JointCommandPublisher) -> None:
    outside = KINEMATICS.solve(START, np.array([0.5, -0.28, 0.1]))
    measured = KINEMATICS.solve(outside, np.array([0.5, -0.279, 0.1]))
    now = replace(state(measured), desired_rad=outside)
    stream.begin(now, now.hand_m, now.hand_m)
    stream.send(outside, now)
    joints = outside
    for y_m in np.arange(-0.2815, -0.285, -0.0015):  # a returning motion may deviate from its line
        joints = KINEMATICS.solve(joints, np.array([0.5, y_m, 0.1]))
        stream.send(joints, now)
    with pytest.raises(StreamFault, match="expected a hand between"):
        stream.send(KINEMATICS.solve(joints, np.array([0.5, -0.2855, 0.1])), now)
    stream.send(KINEMATICS.solve(joints, np.array([0.5, -0.2835, 0.1])), now)


def test_joint_beyond_its_margin_may_only_return(stream: JointCommandPublisher) -> None:
    wide = Kinematics()
    end = START.copy()
    end[6] = wide.high_rad[6] - CONFIG.motion.joint_margin_rad / 2
    stream.begin(state(end), np.full(3, -9.0), np.full(3, 9.0))
    further = end.copy()
    further[6] += BOUND[6] / 2
    with pytest.raises(StreamFault, match="inside their ranges"):
        stream.send(further, state(end))
    back = end.copy()
    back[6] -= BOUND[6] / 2
    stream.send(back, state(end))


def test_interrupted_stream_is_not_resumed(stream: JointCommandPublisher, sent: list[NDArray[np.float64]]) -> None:
    stream.send(START, state())
    time.sleep(CONFIG.motion.stall_s + 0.1)
    with pytest.raises(StreamFault, match="was interrupted"):
        stream.send(START, state())
    time.sleep(0.05)
    assert len(sent) == 1


def test_stream_interrupted_while_waiting_sends_nothing(
    stream: JointCommandPublisher, sent: list[NDArray[np.float64]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.send(START, state())
    sleep = time.sleep
    with monkeypatch.context() as stopped, pytest.raises(StreamFault, match="was interrupted"):
        stopped.setattr(time, "sleep", lambda s: sleep(s + CONFIG.motion.stall_s + 0.1))
        stream.send(START, state())
    time.sleep(0.05)
    assert len(sent) == 1


def test_commands_are_sent_at_the_tick_rate(stream: JointCommandPublisher) -> None:
    began_s = time.monotonic()
    for _ in range(30):
        stream.send(START, state())
    assert time.monotonic() - began_s >= 29 * CONFIG.motion.tick_s * 0.99


def test_missing_subscriber_is_a_fault(master: Rig) -> None:
    Master("test_stream", 5.0)
    stream = JointCommandPublisher(CONFIG.motion, CONFIG.limits, KINEMATICS, load())
    with pytest.raises(RobotFault, match="expected a subscribed driver"):
        stream.wait_for_driver(0.2)
    stream.close()
