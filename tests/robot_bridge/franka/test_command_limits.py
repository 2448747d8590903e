"""Limits on joint commands; over ROS see `ros/test_joint_commands.py`."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.loader import Config, load
from robot_bridge.franka import recovery
from robot_bridge.franka.command_limits import CommandLimits, StreamFault
from robot_bridge.franka.config import FrankaDirectConfig
from robot_bridge.franka.state import ArmState, frame_error, pose_error
from robot_bridge.kinematics import (
    FLANGE_TO_TCP,
    FR3_RANGES_RAD,
    HOME_RAD,
    SPEED_LIMITS_RAD_S,
    Kinematics,
)
from robot_bridge.motion import ContactGuard, Motion


class _Sections(Config):
    robot: FrankaDirectConfig


CONFIG = load(_Sections, {"robot": "robots/franka_direct.yaml"}).robot
KINEMATICS = Kinematics(margin_rad=CONFIG.motion.joint_margin_rad, fits_fr3=True)
START = KINEMATICS.solve(HOME_RAD, np.array([0.5, 0.0, 0.15]))
BOUND = CONFIG.motion.speed_fraction * SPEED_LIMITS_RAD_S * CONFIG.motion.tick_s


def state(joints: NDArray[np.float64] = START) -> ArmState:
    hand = KINEMATICS.hand(joints)
    return ArmState(
        joints, np.zeros(7), joints, hand, 0.0, np.zeros(3), recovery.IDLE, (), FLANGE_TO_TCP, time.monotonic()
    )


@pytest.fixture
def limits() -> CommandLimits:
    limits = CommandLimits(CONFIG.motion, CONFIG.limits, KINEMATICS)
    limits.begin(state(), np.full(3, np.inf), np.full(3, -np.inf))
    return limits


def test_limited_steps_are_accepted(limits: CommandLimits) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        before = limits.last_rad
        after = limits.accept(limits.limit_step(START + rng.uniform(-0.02, 0.02, 7)))
        assert (np.abs(after - before) <= BOUND * 1.000001).all()


@pytest.mark.parametrize(
    ("commanded", "message"),
    [
        (np.full(7, np.nan), "finite"),
        (START[:6], "finite"),
        (START + BOUND * 1.01, "of the last"),
    ],
)
def test_invalid_commands_are_refused(limits: CommandLimits, commanded: NDArray[np.float64], message: str) -> None:
    with pytest.raises(StreamFault, match=message):
        limits.accept(commanded)
    np.testing.assert_array_equal(limits.last_rad, START)


def test_hand_leaving_the_box_is_refused(limits: CommandLimits) -> None:
    inside = KINEMATICS.solve(START, np.array([0.5, 0.0, -0.0075]))
    limits.begin(state(inside), np.full(3, np.inf), np.full(3, -np.inf))
    with pytest.raises(StreamFault, match="expected a hand between"):
        limits.accept(KINEMATICS.solve(inside, np.array([0.5, 0.0, -0.0091])))


@pytest.mark.parametrize("tilt_rad", [0.0, 0.05, 0.1])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_hand_pushed_through_a_wall_can_be_raised(limits: CommandLimits, tilt_rad: float, side: float) -> None:
    high_m = CONFIG.limits.workspace_high_m[1] + CONFIG.motion.workspace_margin_m
    pushed = KINEMATICS.solve(START, np.array([0.35, side * (high_m + 0.003), 0.025]))
    for signs in itertools.product((-tilt_rad, tilt_rad), repeat=3):
        tilted = pushed + np.array([0, 0, 0, 0, *signs])
        now = state(tilted)
        limits.begin(now, now.hand_m, now.hand_m)
        lift = Motion(KINEMATICS, tilted, now.hand_m, np.array([0.0, 0.0, 0.08]), ContactGuard(10.0, 0.01))
        for fraction in np.linspace(0, 1, 400):
            limits.accept(limits.limit_step(lift.target(fraction)))
        assert KINEMATICS.hand(limits.last_rad)[2] == pytest.approx(now.hand_m[2] + 0.08, abs=0.002)


def test_tracking_error_is_refused(limits: CommandLimits) -> None:
    limits.check_tracking(START, state(START + 0.09))
    for off in (0.11, np.nan):
        with pytest.raises(StreamFault, match=r"within 0\.1 rad of the commanded joints"):
            limits.check_tracking(START, state(START + off))


def test_ranges_fit_panda_and_fr3() -> None:
    low, high = np.array(FR3_RANGES_RAD).T
    assert (KINEMATICS.low_rad >= low + 0.1 - 1e-9).all() and (KINEMATICS.high_rad <= high - 0.1 + 1e-9).all()


def test_shipped_limits_over_libfranka_are_strict() -> None:
    assert CONFIG.motion.max_state_age_s <= 0.2 and CONFIG.motion.stall_s <= 0.2
    assert max(CONFIG.reflex.torques_nm) <= 20 and max(CONFIG.reflex.forces[:3]) <= 30
    assert CONFIG.motion.contact_limit_n < min(CONFIG.reflex.forces[:3]) / 2
    assert CONFIG.enforces_realtime


def test_other_end_effector_is_reported() -> None:
    good = state()
    assert not frame_error(good) and not pose_error(good, KINEMATICS)
    longer = good.flange_to_tip.copy()
    longer[2, 3] += 0.05
    other = ArmState(**{**good.__dict__, "flange_to_tip": longer, "hand_m": good.hand_m + 0.006})
    assert "expected the Franka hand, 0.1034 m along z" in frame_error(other)
    assert "within 0.005 m of the pose computed from the joints, got 0.010 m" in pose_error(other, KINEMATICS)
