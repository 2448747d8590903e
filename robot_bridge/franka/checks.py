"""Readiness checks common to every real arm. Each check returns what it found, or raises an error with the fix."""

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

MEASURE_S = 2.0  # for which the rate of a stream is measured; ours

_STATE_HZ = 50.0  # ours: at lower rates a state is older than one tick of a motion
_CAMERA_HZ = 5.0  # ours: at lower rates every step waits for its image
_HELP = {
    recovery.USER_STOPPED: "find out why the user stop was pressed, and release it",
    recovery.GUIDING: "release the arm, and leave the guiding mode",
    recovery.REFLEX: "check what the arm touches, then press and release the user stop; run_collection does without",
    recovery.RECOVERING: "wait until the arm has recovered",
}


@dataclass(frozen=True)
class CheckResult:
    """Result of one readiness check."""

    name: str
    passed: bool
    detail: str  # what was found
    fix: str = ""  # what to do; empty if the check passed


def run_check(name: str, check: Callable[[], str]) -> CheckResult:
    """Run a check; of an error, the part after the last semicolon is the fix."""
    try:
        return CheckResult(name, True, check())
    except ReportedError as error:
        detail, _, fix = str(error).rpartition("; ")
        return CheckResult(name, False, detail or fix, fix if detail else "")


def reach(config: FrankaConfig, kinematics: Kinematics) -> str:
    """Check that the arm reaches the whole workspace."""
    check_reach(kinematics, config.limits)
    return "all corners are reachable with the hand pointing down"


def rate(states: StateSource) -> str:
    """Check the rate of states."""
    rate_hz = _rate_hz(lambda than_s: _complete(states, than_s))
    if rate_hz < _STATE_HZ:
        raise RobotError(f"expected states at {_STATE_HZ:g} Hz or more, got {rate_hz:.0f} Hz; check the network")
    return f"{rate_hz:.0f} Hz, the last {time.monotonic() - states.fresh().time_s:.3f} s old"


def camera(images: ImageSource) -> str:
    """Check the rate, size, age and brightness of images."""
    rate_hz = _rate_hz(lambda than_s: images.newer(than_s)[1])
    image, arrived_s = images.newer(time.monotonic())
    if rate_hz < _CAMERA_HZ:
        raise RobotError(f"expected images at {_CAMERA_HZ:g} Hz or more, got {rate_hz:.1f} Hz; check the camera")
    height, width, _ = image.shape
    age_s = time.monotonic() - arrived_s
    return f"{height}x{width}, {rate_hz:.0f} Hz, the last {age_s:.2f} s old, brightness {image.mean():.0f}"


def mode(state: ArmState) -> str:
    """Check that the arm may move."""
    if state.mode not in {recovery.IDLE, recovery.MOVING} or state.errors:
        fix = _HELP.get(state.mode, "check the driver's log")
        raise RobotError(f"expected an arm that may move, got mode {state.mode} {', '.join(state.errors)}; {fix}")
    return f"{'idle' if state.mode == recovery.IDLE else 'ready to move'}, no error"


def hand(config: FrankaConfig, state: ArmState) -> str:
    """Check that the hand is above the floor of the workspace."""
    low, high = np.array(config.limits.workspace_low_m), np.array(config.limits.workspace_high_m)
    position = state.hand_m.round(3).tolist()
    if state.hand_m[2] < low[2] - config.motion.workspace_margin_m:
        raise RobotError(f"expected the hand above {low[2]:g} m, got {position}; guide it above the bin by hand")
    is_inside = ((state.hand_m >= low) & (state.hand_m <= high)).all()
    return f"at {position} m, {'inside' if is_inside else 'outside, a reset moves it into'} the workspace"


def _complete(states: StateSource, than_s: float) -> float:
    """Wait until all parts of a state have arrived, and return when."""
    states.newer(than_s, MEASURE_S)
    return time.monotonic()


def _rate_hz(newer: Callable[[float], float]) -> float:
    """Measure the rate of a stream; `newer` waits for an item after a time and returns its arrival time."""
    first_s = last_s = newer(time.monotonic())
    n = 0
    while last_s - first_s < MEASURE_S:
        last_s = newer(last_s)
        n += 1
    return n / (last_s - first_s)
