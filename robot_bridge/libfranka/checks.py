"""Is a Franka without ROS ready? Everything is asked, nothing is commanded and nothing moves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

from robot_bridge.franka import checks
from robot_bridge.franka.checks import CheckResult, run_check
from robot_bridge.franka.config import FrankaDirectConfig
from robot_bridge.franka.state import frame_error, pose_error
from robot_bridge.kinematics import Kinematics
from robot_bridge.libfranka.connection import FrankaConnection, FrankaConnectionError
from robot_bridge.libfranka.gripper import LibfrankaGripper
from robot_bridge.libfranka.subscribers import LibfrankaStateSubscriber
from robot_bridge.libfranka.video_stream import VideoReader


def run_checks(config: FrankaDirectConfig) -> Iterator[CheckResult]:
    """Yield a finding on each part; where the arm cannot be reached, what needs it is left out."""
    kinematics = Kinematics(margin_rad=config.motion.joint_margin_rad, suits_fr3=True)
    yield run_check("workspace", lambda: checks.reach(config, kinematics))
    with closing(VideoReader(config.images, config.camera)) as images:
        yield run_check("camera", lambda: checks.camera(images))
    links: list[FrankaConnection] = []  # one, if it can be met
    yield run_check("arm", lambda: _connect(links, config))
    for link in links:
        with closing(link):
            yield from _check_arm(config, kinematics, LibfrankaStateSubscriber(link, config.motion.max_state_age_s))


def _check_arm(
    config: FrankaDirectConfig, kinematics: Kinematics, states: LibfrankaStateSubscriber
) -> Iterator[CheckResult]:
    yield run_check("state", lambda: checks.rate(states))
    yield run_check("mode", lambda: checks.mode(states.fresh()))
    yield run_check("hand", lambda: checks.hand(config, states.fresh()))
    yield run_check("frame", lambda: _frame(states, kinematics))
    yield run_check("gripper", lambda: _gripper(config))


def _connect(links: list[FrankaConnection], config: FrankaDirectConfig) -> str:
    began_s = time.monotonic()
    links.append(FrankaConnection(config))
    return f"{config.host} answers after {time.monotonic() - began_s:.2f} s, by a protocol that franky speaks"


def _frame(states: LibfrankaStateSubscriber, kinematics: Kinematics) -> str:
    state = states.fresh()
    if wrong := frame_error(state) or pose_error(state, kinematics):
        raise FrankaConnectionError(f"{wrong}; set the end effector in Desk to the Franka hand")
    return f"the Franka hand's, {1000 * checks.off_m(state, kinematics):.1f} mm off where the joints put it"


def _gripper(config: FrankaDirectConfig) -> str:
    with closing(LibfrankaGripper(config.gripper, config.host, config.connect_timeout_s)) as fingers:
        return f"it answers, the fingers are {1000 * fingers.width_m():.0f} mm apart"
