"""Kinematics of the Franka: data sheet against simulation, and the inverse."""

from __future__ import annotations

import numpy as np
import pytest

from robot_bridge.kinematics import HOME_RAD, RANGES_RAD, Kinematics, forward
from robot_bridge.simulation.arm import kinematics as simulated
from tests.robot_bridge.simulated import config

LOW, HIGH = np.array(config().limits.workspace_low_m), np.array(config().limits.workspace_high_m)


@pytest.fixture(params=["data sheet", "simulated"])
def arm(request: pytest.FixtureRequest) -> Kinematics:
    return Kinematics() if request.param == "data sheet" else simulated()


def test_home_pose_is_above_the_bin(arm: Kinematics) -> None:
    hand = arm.hand(HOME_RAD)
    assert LOW[0] < hand[0] < HIGH[0]
    assert hand[1] == pytest.approx(0.0, abs=1e-9)


def test_inverse_kinematics_error_is_below_a_millimetre(arm: Kinematics) -> None:
    joints, rng = HOME_RAD, np.random.default_rng(0)
    for target in rng.uniform(LOW, HIGH, (60, 3)):
        joints = arm.solve(joints, target)
        assert np.linalg.norm(arm.hand(joints) - target) < 1e-3


def test_posture_does_not_depend_on_earlier_targets(arm: Kinematics) -> None:
    joints, rng = HOME_RAD, np.random.default_rng(1)
    for target in rng.uniform(LOW, HIGH, (30, 3)):
        joints = arm.solve(joints, target)
        np.testing.assert_allclose(joints, arm.solve(HOME_RAD, target), atol=0.1)


def test_margin_keeps_joints_inside_their_ranges() -> None:
    low, high = np.array(RANGES_RAD).T
    joints = HOME_RAD
    for far in ([3.0, 0.0, 0.5], [-0.5, 2.0, -1.0], [0.1, 0.0, 0.1]):
        joints = Kinematics(margin_rad=0.1).solve(joints, np.array(far))
        assert (joints >= low + 0.1).all()
        assert (joints <= high - 0.1).all()


def test_data_sheet_and_simulation_agree() -> None:
    rng, there = np.random.default_rng(2), simulated()
    low, high = np.array(RANGES_RAD).T
    for joints in rng.uniform(low, high, (50, 7)):
        ours, theirs = forward(joints), there._pose(joints)
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_jacobian_is_the_derivative_of_the_position() -> None:
    joints, step = HOME_RAD + 0.1, 1e-6
    for i in range(7):
        moved = joints.copy()
        moved[i] += step
        slope = (forward(moved).position_m - forward(joints).position_m) / step
        np.testing.assert_allclose(slope, forward(joints).jacobian[:3, i], atol=1e-5)
