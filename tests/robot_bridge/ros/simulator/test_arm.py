"""The simulated arm behind the driver, without ROS: commands, timeouts, reflexes and recovery."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from robot_bridge.franka import recovery
from robot_bridge.kinematics import SPEED_LIMITS_RAD_S, Kinematics
from robot_bridge.ros import names
from robot_bridge.ros.simulator.arm import POSITION, TICK_S, VELOCITY, SimulatedArm
from robot_bridge.ros.simulator.log import DriverLog
from tests.robot_bridge.simulated import franka


class Setup:
    """A simulated arm with a clock."""

    def __init__(self) -> None:
        self._robot = franka()
        self._robot.reset(np.random.default_rng(0))
        self.log = DriverLog(None)
        self.arm = SimulatedArm(self._robot.realtime(), self.log)
        self.now_s = 100.0

    def command(
        self, values: NDArray[np.float64], mode: int = POSITION, joints: tuple[str, ...] = names.JOINTS
    ) -> None:
        self.arm.command(mode, joints, values.tolist(), self.now_s)

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.now_s += TICK_S
            self.arm.tick(self.now_s)

    def press(self, depth_m: float) -> None:
        """Command the hand downwards until its target is `depth_m` below the floor."""
        kinematics = Kinematics()
        for _ in range(400):
            hand = kinematics.hand(self.arm.desired_rad)
            if hand[2] < -depth_m or self.arm.errors:
                return
            self.command(kinematics.solve(self.arm.desired_rad, hand - [0.0, 0.0, 0.002]))
            self.wait(TICK_S)

    def close(self) -> None:
        self._robot.close()


@pytest.fixture
def setup() -> Iterator[Setup]:
    setup = Setup()
    setup.wait(0.1)
    yield setup
    setup.close()


def test_position_is_reached(setup: Setup) -> None:
    target = setup.arm.desired_rad + 0.05
    setup.command(target)
    setup.wait(0.15)
    np.testing.assert_allclose(setup.arm.simulation.joints_rad, target, atol=0.01)
    assert setup.arm.controller == names.POSITION_CONTROLLER


def test_arm_holds_after_the_command_timeout(setup: Setup) -> None:
    setup.command(np.full(7, 0.2), VELOCITY)
    setup.wait(0.3)
    held = setup.arm.desired_rad
    setup.wait(0.5)
    np.testing.assert_array_equal(setup.arm.desired_rad, held)
    assert setup.arm.controller == names.DEFAULT_CONTROLLER
    assert setup.log.counts["timeout"] == 1


@pytest.mark.parametrize(("set_s", "holds_s"), [(5.0, 1.0), (-1.0, 0.0), (np.nan, 0.2), (0.5, 0.5)])
def test_timeout_is_clamped(setup: Setup, set_s: float, holds_s: float) -> None:
    setup.arm.set_timeout(set_s)
    setup.command(np.full(7, 0.1), VELOCITY)
    setup.wait(holds_s - 0.03)
    assert setup.log.counts["timeout"] == 0
    setup.wait(0.06)
    assert setup.log.counts["timeout"] == 1


@pytest.mark.parametrize(
    ("mode", "values", "joints"),
    [
        (POSITION, np.array([3.5, 0, 0, -2, 0, 2, 0]), names.JOINTS),
        (POSITION, np.full(7, np.nan), names.JOINTS),
        (POSITION, np.zeros(6), names.JOINTS[:6]),
        (POSITION, np.zeros(7), ("a", *names.JOINTS[1:])),
        (POSITION, np.zeros(7), (names.JOINTS[0], *names.JOINTS[:6])),
        (VELOCITY, np.full(7, 5.0), names.JOINTS),
        (3, np.zeros(7), names.JOINTS),
    ],
)
def test_invalid_command_holds_the_arm(
    setup: Setup, mode: int, values: NDArray[np.float64], joints: tuple[str, ...]
) -> None:
    before = setup.arm.simulation.joints_rad
    setup.command(values, mode, joints)
    setup.wait(0.3)
    np.testing.assert_allclose(setup.arm.simulation.joints_rad, before, atol=1e-3)
    assert setup.log.counts["refused"] == 1
    assert setup.arm.mode == recovery.MOVING


def test_joints_are_matched_by_name(setup: Setup) -> None:
    target = setup.arm.desired_rad + np.linspace(0.01, 0.06, 7)
    setup.command(target[::-1], joints=names.JOINTS[::-1])
    setup.wait(0.15)
    np.testing.assert_allclose(setup.arm.desired_rad, target, atol=1e-4)


def test_jump_is_a_reflex_cleared_by_one_recovery(setup: Setup) -> None:
    start = setup.arm.desired_rad
    setup.command(start + 0.3)
    assert setup.arm.mode == recovery.REFLEX
    assert setup.arm.errors == ("joint_motion_generator_velocity_limits_violation",)
    setup.command(start + 0.01)
    setup.wait(0.2)
    np.testing.assert_allclose(setup.arm.simulation.joints_rad, start, atol=2e-3)
    assert setup.log.counts["ignored"] == 1
    assert setup.arm.recover(setup.now_s)
    assert setup.arm.mode == recovery.MOVING
    assert not setup.arm.errors
    assert setup.arm.last_errors == ("joint_motion_generator_velocity_limits_violation",)
    assert not setup.arm.recover(setup.now_s)


def test_pressing_on_the_bin_is_a_reflex_that_yields(setup: Setup) -> None:
    setup.press(0.1)
    assert setup.arm.errors == ("cartesian_reflex",)
    assert 20 < setup.arm.wrench[2] < 40
    setup.wait(1.0)
    assert setup.arm.wrench[2] < 5
    assert setup.arm.recover(setup.now_s)
    setup.wait(1.0)
    assert setup.arm.mode == recovery.MOVING


def test_reflex_follows_the_threshold(setup: Setup) -> None:
    setup.arm.upper_forces = np.full(6, 60.0)
    setup.arm.upper_torques_nm = np.full(7, 80.0)
    setup.press(0.1)
    assert setup.arm.errors == ("cartesian_reflex",)
    assert setup.arm.wrench[2] > 60


def test_user_stop_holds_the_arm(setup: Setup) -> None:
    setup.command(np.full(7, 0.2), VELOCITY)
    setup.wait(0.1)
    setup.arm.stop(True)
    held = setup.arm.desired_rad
    setup.command(np.full(7, 0.2), VELOCITY)
    setup.wait(0.3)
    np.testing.assert_array_equal(setup.arm.desired_rad, held)
    assert not setup.arm.recover(setup.now_s)
    assert setup.arm.mode == recovery.USER_STOPPED
    setup.arm.stop(False)
    assert setup.arm.mode == recovery.IDLE


def test_reflex_storm_follows_every_recovery(setup: Setup) -> None:
    setup.arm.is_storm = True
    setup.arm.reflex("cartesian_reflex")
    for _ in range(3):
        assert setup.arm.recover(setup.now_s)
        setup.wait(0.4)
        assert setup.arm.mode == recovery.REFLEX


def test_trajectory_is_followed_and_can_be_cancelled(setup: Setup) -> None:
    start = setup.arm.desired_rad
    setup.arm.follow(np.array([1.0, 2.0]), np.stack([start + 0.1, start]), setup.now_s)
    setup.wait(1.0)
    np.testing.assert_allclose(setup.arm.desired_rad, start + 0.1, atol=0.01)
    setup.arm.cancel()
    held = setup.arm.desired_rad
    setup.wait(0.5)
    np.testing.assert_array_equal(setup.arm.desired_rad, held)
    assert setup.arm.has_arrived()


def test_speed_stays_below_the_limits(setup: Setup) -> None:
    before = setup.arm.desired_rad
    setup.command(before + 0.099)
    for _ in range(10):
        setup.wait(TICK_S)
        assert (np.abs(setup.arm.desired_rad - before) <= SPEED_LIMITS_RAD_S * TICK_S + 1e-12).all()
        before = setup.arm.desired_rad
