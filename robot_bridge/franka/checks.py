"""What is looked at of every real arm; each function says what it saw, or raises what is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from configs.command import ReportedError
from robot_bridge.franka import recovery
from robot_bridge.franka.config import FrankaConfig
from robot_bridge.franka.image_buffer import ImageSource
from robot_bridge.franka.state import ArmState, StateSource
from robot_bridge.kinematics import Kinematics
from robot_bridge.motion import check_reach
from robot_bridge.robot import RobotError

WATCH_S = 2.0  # of every stream, to count it
_STATE_HZ = 50.0  # ours: fewer, and states are older than a tick of a motion is worth
_CAMERA_HZ = 5.0  # ours: fewer, and a step waits for its picture
_HELP = {
    recovery.USER_STOPPED: "release the user stop, and look why it was pressed",
    recovery.GUIDING: "let go of the arm, and close the guiding mode",
    recovery.REFLEX: "look at what the arm touches; run_collection and run_task free it at their start",
    recovery.RECOVERING: "wait until the arm has recovered",
}


def reach(config: FrankaConfig, kinematics: Kinematics) -> str:
    """Look at the workspace."""
    check_reach(kinematics, config.limits)
    return "every corner is within reach, with the hand pointing down"


def rate(states: StateSource) -> str:
    """Look how often states come."""
    rate_hz = _count(lambda than_s: _whole(states, than_s))
    if rate_hz < _STATE_HZ:
        raise RobotError(f"expected at least {_STATE_HZ:g} states a second, got {rate_hz:.0f}; look at the network")
    return f"{rate_hz:.0f} a second, the last {time.monotonic() - states.fresh().time_s:.3f} s old"


def camera(images: ImageSource) -> str:
    """Look at the pictures."""
    rate_hz = _count(lambda than_s: images.newer(than_s)[1])
    picture, came_s = images.newer(time.monotonic())
    if rate_hz < _CAMERA_HZ:
        raise RobotError(f"expected at least {_CAMERA_HZ:g} pictures a second, got {rate_hz:.1f}; look at the camera")
    height, width, _ = picture.shape
    age_s = time.monotonic() - came_s
    return f"{height}x{width}, {rate_hz:.0f} a second, the last {age_s:.2f} s old, brightness {picture.mean():.0f}"


def mode(state: ArmState) -> str:
    """Look whether the arm may be moved."""
    if state.mode not in {recovery.IDLE, recovery.MOVING} or state.errors:
        help_ = _HELP.get(state.mode, "look at the driver's own log")
        raise RobotError(f"expected an arm that may move, got mode {state.mode} {', '.join(state.errors)}; {help_}")
    return f"{'idle' if state.mode == recovery.IDLE else 'ready to move'}, no error"


def hand(config: FrankaConfig, state: ArmState) -> str:
    """Look where the hand is."""
    low, high = np.array(config.limits.workspace_low_m), np.array(config.limits.workspace_high_m)
    place = state.hand_m.round(3).tolist()
    if state.hand_m[2] < low[2] - config.motion.workspace_margin_m:
        raise RobotError(f"expected the hand above {low[2]:g} m, got {place}; guide it above the bin by hand")
    is_inside = ((state.hand_m >= low) & (state.hand_m <= high)).all()
    return f"at {place} m, {'inside' if is_inside else 'outside, from where a reset brings it into'} the workspace"


def off_m(state: ArmState, kinematics: Kinematics) -> float:
    """Return how far the arm's own hand is from where its joints put it."""
    return float(np.linalg.norm(kinematics.hand(state.joints_rad) - state.hand_m))


def _whole(states: StateSource, than_s: float) -> float:
    """Wait until all parts of a state have come anew, and return when."""
    states.newer(than_s, WATCH_S)
    return time.monotonic()


def _count(newer: Callable[[float], float]) -> float:
    """Return how many a second of a stream come; `newer` waits for one after a time and says when it came."""
    first_s = last_s = newer(time.monotonic())
    n = 0
    while last_s - first_s < WATCH_S:
        last_s = newer(last_s)
        n += 1
    return n / (last_s - first_s)


@dataclass(frozen=True)
class CheckResult:
    """One thing that was looked at."""

    name: str
    passed: bool
    detail: str
    fix: str = ""  # what to do; empty where all is well


def run_check(name: str, check: Callable[[], str]) -> CheckResult:
    """Return what an examination says, or the error that it raises, whose last part says what to do."""
    try:
        return CheckResult(name, True, check())
    except ReportedError as error:
        detail, _, fix = str(error).rpartition("; ")
        return CheckResult(name, False, detail or fix, fix if detail else "")
