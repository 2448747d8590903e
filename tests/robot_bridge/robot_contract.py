"""Tests of the `Robot` protocol, inherited by the tests of every robot."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from robot_bridge.robot import CLOSE, OPEN, STATE_DIM, Observation, Robot
from robot_bridge.safety import UnsafeActionError, limit_action

HAND_TOLERANCE_M = 0.005  # between the commanded and the measured position at rest


def act(x: float, y: float, z: float, gripper: float = OPEN) -> NDArray[np.float32]:
    return np.array([x, y, z, gripper], dtype=np.float32)


class RobotContract:
    """Inherit it, and provide a fixture `robot` that yields a robot before its first reset."""

    @staticmethod
    def check(observation: Observation, robot: Robot) -> None:
        camera = robot.spec.camera
        assert observation.image.shape == (camera.height_px, camera.width_px, 3)
        assert observation.image.dtype == np.uint8
        assert observation.image.std() > 0
        assert observation.state.shape == (STATE_DIM,)
        assert observation.state.dtype == np.float64
        low, high = robot.spec.state_bounds()
        slack = np.array([*[HAND_TOLERANCE_M] * 3, 0.0, 0.0])
        assert (observation.state >= low - slack).all()
        assert (observation.state <= high + slack).all()

    def test_spec_is_known_before_any_motion(self, robot: Robot) -> None:
        assert robot.spec.name
        assert robot.spec.step_s > 0

    def test_reset_opens_the_gripper_within_the_workspace(self, robot: Robot) -> None:
        observation = robot.reset(np.random.default_rng(0))
        self.check(observation, robot)
        assert observation.state[4] > 0.9

    def test_reset_is_drawn_from_its_rng(self, robot: Robot) -> None:
        first = robot.reset(np.random.default_rng(3)).state
        other = robot.reset(np.random.default_rng(4)).state
        again = robot.reset(np.random.default_rng(3)).state
        np.testing.assert_allclose(first, again, atol=HAND_TOLERANCE_M)
        assert np.linalg.norm(first[:3] - other[:3]) > HAND_TOLERANCE_M

    def test_observe_does_not_move(self, robot: Robot) -> None:
        before = robot.reset(np.random.default_rng(0))
        first, second = robot.observe(), robot.observe()
        np.testing.assert_allclose(before.state, first.state, atol=1e-3)
        np.testing.assert_allclose(first.state, second.state, atol=1e-3)
        assert before.time_s <= first.time_s <= second.time_s

    def test_step_moves_by_the_applied_action(self, robot: Robot) -> None:
        before = robot.reset(np.random.default_rng(0)).state
        toward_middle = (np.array(robot.spec.limits.workspace_low_m) + robot.spec.limits.workspace_high_m) / 2 - before[
            :3
        ]
        delta = toward_middle * min(1.0, 0.04 / float(np.linalg.norm(toward_middle)))
        step = robot.step(act(*delta))
        self.check(step.observation, robot)
        np.testing.assert_allclose(step.observation.state[:3] - before[:3], step.applied[:3], atol=HAND_TOLERANCE_M)

    def test_applied_is_the_limited_action(self, robot: Robot) -> None:
        state = robot.reset(np.random.default_rng(0)).state
        for action in (act(0.5, 0.1, 0.0), act(0.0, -3.0, 0.2, 0.3), act(0.01, 0.0, 0.0, -0.2)):
            expected = limit_action(action, state[:3], robot.spec.limits)
            step = robot.step(action)
            assert step.applied.shape == (4,)
            assert step.applied.dtype == np.float32
            np.testing.assert_allclose(step.applied, expected, atol=1e-3)
            assert step.applied[3] in (OPEN, CLOSE)
            state = step.observation.state

    def test_observation_after_a_step_is_newer(self, robot: Robot) -> None:
        before = robot.reset(np.random.default_rng(0)).time_s
        for _ in range(2):
            after = robot.step(act(0.0, 0.01, 0.0)).observation.time_s
            assert after > before
            before = after

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_non_finite_action_moves_nothing(self, robot: Robot, value: float) -> None:
        before = robot.reset(np.random.default_rng(0)).state
        for i in range(4):
            action = act(0.01, 0.01, 0.01)
            action[i] = value
            with pytest.raises(UnsafeActionError):
                robot.step(action)
        np.testing.assert_allclose(robot.observe().state, before, atol=1e-3)

    def test_action_of_invalid_shape_moves_nothing(self, robot: Robot) -> None:
        before = robot.reset(np.random.default_rng(0)).state
        with pytest.raises(UnsafeActionError):
            robot.step(np.zeros(3, dtype=np.float32))
        np.testing.assert_allclose(robot.observe().state, before, atol=1e-3)

    def test_hand_never_leaves_the_workspace(self, robot: Robot) -> None:
        robot.reset(np.random.default_rng(0))
        for direction in (act(9, 0, 0), act(0, 9, 0), act(0, 0, 9), act(-9, 0, 0), act(0, -9, 0)):
            for _ in range(2):
                self.check(robot.step(direction).observation, robot)

    def test_gripper_closes_and_opens(self, robot: Robot) -> None:
        robot.reset(np.random.default_rng(0))
        assert robot.step(act(0, 0, 0, CLOSE)).observation.state[4] < 0.5
        assert robot.step(act(0, 0, 0, CLOSE)).observation.state[4] < 0.5
        assert robot.step(act(0, 0, 0, OPEN)).observation.state[4] > 0.9

    def test_recover_without_a_fault_does_nothing(self, robot: Robot) -> None:
        before = robot.reset(np.random.default_rng(0)).state
        robot.recover()
        np.testing.assert_allclose(robot.observe().state, before, atol=1e-3)

    def test_close_is_safe_to_call_twice(self, robot: Robot) -> None:
        robot.reset(np.random.default_rng(0))
        robot.close()
        robot.close()
