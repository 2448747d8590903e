"""What the simulated driver does with commands, beside ROS: following, holding, stopping itself, being freed."""

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


class Rehearsal:
    """An arm, its clock, and what it is told."""

    def __init__(self) -> None:
        self._robot = franka()
        self._robot.reset(np.random.default_rng(0))
        self.log = DriverLog(None)
        self.arm = SimulatedArm(self._robot.realtime(), self.log)
        self.now_s = 100.0

    def tell(self, values: NDArray[np.float64], mode: int = POSITION, joints: tuple[str, ...] = names.JOINTS) -> None:
        self.arm.command(mode, joints, values.tolist(), self.now_s)

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.now_s += TICK_S
            self.arm.tick(self.now_s)

    def press(self, depth_m: float) -> None:
        """Let the hand go down, until that deep below where it can."""
        kinematics = Kinematics()
        for _ in range(400):
            hand = kinematics.hand(self.arm.desired_rad)
            if hand[2] < -depth_m or self.arm.errors:
                return
            self.tell(kinematics.solve(self.arm.desired_rad, hand - [0.0, 0.0, 0.002]))
            self.wait(TICK_S)

    def close(self) -> None:
        self._robot.close()


@pytest.fixture
def rehearsal() -> Iterator[Rehearsal]:
    rehearsal = Rehearsal()
    rehearsal.wait(0.1)
    yield rehearsal
    rehearsal.close()


def test_a_position_is_followed_and_reached(rehearsal: Rehearsal) -> None:
    wanted = rehearsal.arm.desired_rad + 0.05
    rehearsal.tell(wanted)
    rehearsal.wait(0.15)
    np.testing.assert_allclose(rehearsal.arm.simulation.joints_rad, wanted, atol=0.01)
    assert rehearsal.arm.controller == names.POSITION_CONTROLLER


def test_it_holds_after_a_fifth_of_a_second_without_a_command(rehearsal: Rehearsal) -> None:
    rehearsal.tell(np.full(7, 0.2), VELOCITY)
    rehearsal.wait(0.3)
    held = rehearsal.arm.desired_rad
    rehearsal.wait(0.5)
    np.testing.assert_array_equal(rehearsal.arm.desired_rad, held)
    assert rehearsal.arm.controller == names.DEFAULT_CONTROLLER
    assert rehearsal.log.counts["timeout"] == 1


@pytest.mark.parametrize(("told_s", "holds_s"), [(5.0, 1.0), (-1.0, 0.0), (np.nan, 0.2), (0.5, 0.5)])
def test_the_timeout_is_clamped(rehearsal: Rehearsal, told_s: float, holds_s: float) -> None:
    rehearsal.arm.set_timeout(told_s)
    rehearsal.tell(np.full(7, 0.1), VELOCITY)
    rehearsal.wait(holds_s - 0.03)
    assert rehearsal.log.counts["timeout"] == 0
    rehearsal.wait(0.06)
    assert rehearsal.log.counts["timeout"] == 1


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
def test_what_may_not_be_followed_holds_the_arm(
    rehearsal: Rehearsal, mode: int, values: NDArray[np.float64], joints: tuple[str, ...]
) -> None:
    before = rehearsal.arm.simulation.joints_rad
    rehearsal.tell(values, mode, joints)
    rehearsal.wait(0.3)
    np.testing.assert_allclose(rehearsal.arm.simulation.joints_rad, before, atol=1e-3)
    assert rehearsal.log.counts["refused"] == 1
    assert rehearsal.arm.mode == recovery.MOVING


def test_joints_are_known_by_name_not_by_order(rehearsal: Rehearsal) -> None:
    wanted = rehearsal.arm.desired_rad + np.linspace(0.01, 0.06, 7)
    rehearsal.tell(wanted[::-1], joints=names.JOINTS[::-1])
    rehearsal.wait(0.15)
    np.testing.assert_allclose(rehearsal.arm.desired_rad, wanted, atol=1e-4)


def test_a_jump_is_a_reflex_and_one_recovery_frees_it(rehearsal: Rehearsal) -> None:
    start = rehearsal.arm.desired_rad
    rehearsal.tell(start + 0.3)
    assert rehearsal.arm.mode == recovery.REFLEX
    assert rehearsal.arm.errors == ("joint_motion_generator_velocity_limits_violation",)
    rehearsal.tell(start + 0.01)
    rehearsal.wait(0.2)
    np.testing.assert_allclose(rehearsal.arm.simulation.joints_rad, start, atol=2e-3)
    assert rehearsal.log.counts["ignored"] == 1
    assert rehearsal.arm.recover(rehearsal.now_s)
    assert rehearsal.arm.mode == recovery.MOVING
    assert not rehearsal.arm.errors
    assert rehearsal.arm.last_errors == ("joint_motion_generator_velocity_limits_violation",)
    assert not rehearsal.arm.recover(rehearsal.now_s)


def test_pressing_on_the_bin_is_a_reflex_that_gives_way(rehearsal: Rehearsal) -> None:
    rehearsal.press(0.1)
    assert rehearsal.arm.errors == ("cartesian_reflex",)
    assert 20 < rehearsal.arm.wrench[2] < 40
    rehearsal.wait(1.0)
    assert rehearsal.arm.wrench[2] < 5
    assert rehearsal.arm.recover(rehearsal.now_s)
    rehearsal.wait(1.0)
    assert rehearsal.arm.mode == recovery.MOVING


def test_a_higher_threshold_lets_it_press_harder(rehearsal: Rehearsal) -> None:
    rehearsal.arm.upper_forces = np.full(6, 60.0)
    rehearsal.arm.upper_torques_nm = np.full(7, 80.0)
    rehearsal.press(0.1)
    assert rehearsal.arm.errors == ("cartesian_reflex",)
    assert rehearsal.arm.wrench[2] > 60


def test_a_person_who_stops_it_is_obeyed(rehearsal: Rehearsal) -> None:
    rehearsal.tell(np.full(7, 0.2), VELOCITY)
    rehearsal.wait(0.1)
    rehearsal.arm.stop(True)
    held = rehearsal.arm.desired_rad
    rehearsal.tell(np.full(7, 0.2), VELOCITY)
    rehearsal.wait(0.3)
    np.testing.assert_array_equal(rehearsal.arm.desired_rad, held)
    assert not rehearsal.arm.recover(rehearsal.now_s)
    assert rehearsal.arm.mode == recovery.USER_STOPPED
    rehearsal.arm.stop(False)
    assert rehearsal.arm.mode == recovery.IDLE


def test_a_storm_follows_every_recovery(rehearsal: Rehearsal) -> None:
    rehearsal.arm.is_storm = True
    rehearsal.arm.reflex("cartesian_reflex")
    for _ in range(3):
        assert rehearsal.arm.recover(rehearsal.now_s)
        rehearsal.wait(0.4)
        assert rehearsal.arm.mode == recovery.REFLEX


def test_a_trajectory_is_followed_and_can_be_given_up(rehearsal: Rehearsal) -> None:
    start = rehearsal.arm.desired_rad
    rehearsal.arm.follow(np.array([1.0, 2.0]), np.stack([start + 0.1, start]), rehearsal.now_s)
    rehearsal.wait(1.0)
    np.testing.assert_allclose(rehearsal.arm.desired_rad, start + 0.1, atol=0.01)
    rehearsal.arm.cancel()
    held = rehearsal.arm.desired_rad
    rehearsal.wait(0.5)
    np.testing.assert_array_equal(rehearsal.arm.desired_rad, held)
    assert rehearsal.arm.has_arrived()


def test_it_never_moves_faster_than_the_joints_may(rehearsal: Rehearsal) -> None:
    before = rehearsal.arm.desired_rad
    rehearsal.tell(before + 0.099)
    for _ in range(10):
        rehearsal.wait(TICK_S)
        assert (np.abs(rehearsal.arm.desired_rad - before) <= SPEED_LIMITS_RAD_S * TICK_S + 1e-12).all()
        before = rehearsal.arm.desired_rad
