"""Is a Franka without ROS ready? Everything is asked, nothing is commanded and nothing moves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

from robot_bridge.franka import checks
from robot_bridge.franka.checks import Finding, look
from robot_bridge.franka.config import FrankaDirectConfig
from robot_bridge.franka.state import wrong_frame, wrong_pose
from robot_bridge.kinematics import Kinematics
from robot_bridge.libfranka.connection import Link, LinkError
from robot_bridge.libfranka.gripper import DirectFingers
from robot_bridge.libfranka.subscribers import StateFeed
from robot_bridge.libfranka.video_stream import VideoFeed


def examine(config: FrankaDirectConfig) -> Iterator[Finding]:
    """Yield a finding on each part; where the arm cannot be reached, what needs it is left out."""
    kinematics = Kinematics(margin_rad=config.motion.joint_margin_rad, suits_fr3=True)
    yield look("workspace", lambda: checks.reach(config, kinematics))
    with closing(VideoFeed(config.images, config.camera)) as images:
        yield look("camera", lambda: checks.camera(images))
    links: list[Link] = []  # one, if it can be met
    yield look("arm", lambda: _connect(links, config))
    for link in links:
        with closing(link):
            yield from _examine_arm(config, kinematics, StateFeed(link, config.motion.state_age_s))


def _examine_arm(config: FrankaDirectConfig, kinematics: Kinematics, states: StateFeed) -> Iterator[Finding]:
    yield look("state", lambda: checks.rate(states))
    yield look("mode", lambda: checks.mode(states.fresh()))
    yield look("hand", lambda: checks.hand(config, states.fresh()))
    yield look("frame", lambda: _frame(states, kinematics))
    yield look("gripper", lambda: _gripper(config))


def _connect(links: list[Link], config: FrankaDirectConfig) -> str:
    began_s = time.monotonic()
    links.append(Link(config))
    return f"{config.host} answers after {time.monotonic() - began_s:.2f} s, by a protocol that franky speaks"


def _frame(states: StateFeed, kinematics: Kinematics) -> str:
    state = states.fresh()
    if wrong := wrong_frame(state) or wrong_pose(state, kinematics):
        raise LinkError(f"{wrong}; set the end effector in Desk to the Franka hand")
    return f"the Franka hand's, {1000 * checks.off_m(state, kinematics):.1f} mm off where the joints put it"


def _gripper(config: FrankaDirectConfig) -> str:
    with closing(DirectFingers(config.gripper, config.host, config.connect_timeout_s)) as fingers:
        return f"it answers, the fingers are {1000 * fingers.width_m():.0f} mm apart"
