"""Readiness checks of a Franka over libfranka. Nothing is commanded and nothing moves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

from robot_bridge.franka import checks
from robot_bridge.franka.checks import CheckResult, run_check
from robot_bridge.franka.config import FrankaDirectConfig
from robot_bridge.franka.state import frame_error, pose_error, pose_error_m
from robot_bridge.kinematics import Kinematics
from robot_bridge.libfranka.connection import FrankaConnection, FrankaConnectionError
from robot_bridge.libfranka.gripper import LibfrankaGripper
from robot_bridge.libfranka.subscribers import LibfrankaStateSubscriber
from robot_bridge.libfranka.video_stream import VideoReader


def run_checks(config: FrankaDirectConfig) -> Iterator[CheckResult]:
    """Yield the result of each check; if the arm does not answer, checks that need it are skipped."""
    kinematics = Kinematics(margin_rad=config.motion.joint_margin_rad, fits_fr3=True)
    yield run_check("workspace", lambda: checks.reach(config, kinematics))
    with closing(VideoReader(config.images, config.camera)) as images:
        yield run_check("camera", lambda: checks.camera(images))
    connections: list[FrankaConnection] = []  # at most one, if the arm answers
    yield run_check("arm", lambda: _connect(connections, config))
    for connection in connections:
        with closing(connection):
            states = LibfrankaStateSubscriber(connection, config.motion.max_state_age_s)
            yield from _check_arm(config, kinematics, states)


def _check_arm(
    config: FrankaDirectConfig, kinematics: Kinematics, states: LibfrankaStateSubscriber
) -> Iterator[CheckResult]:
    yield run_check("state", lambda: checks.rate(states))
    yield run_check("mode", lambda: checks.mode(states.fresh()))
    yield run_check("hand", lambda: checks.hand(config, states.fresh()))
    yield run_check("frame", lambda: _frame(states, kinematics))
    yield run_check("gripper", lambda: _gripper(config))


def _connect(connections: list[FrankaConnection], config: FrankaDirectConfig) -> str:
    began_s = time.monotonic()
    connections.append(FrankaConnection(config))
    return f"{config.host} answers after {time.monotonic() - began_s:.2f} s, with a protocol version known to franky"


def _frame(states: LibfrankaStateSubscriber, kinematics: Kinematics) -> str:
    state = states.fresh()
    if wrong := frame_error(state) or pose_error(state, kinematics):
        raise FrankaConnectionError(f"{wrong}; set the end effector in Desk to the Franka hand")
    return f"the Franka hand, {1000 * pose_error_m(state, kinematics):.1f} mm off the pose computed from the joints"


def _gripper(config: FrankaDirectConfig) -> str:
    with closing(LibfrankaGripper(config.gripper, config.host, config.connect_timeout_s)) as device:
        return f"it answers, the fingers are {1000 * device.width_m():.0f} mm apart"
