"""Waypoints become steps that end at the last waypoint."""

import numpy as np

from data_collection.policies.waypoints import Waypoint, walk
from robot_bridge.robot import CLOSE, OPEN
from robot_bridge.safety import MotionLimits

LIMITS = MotionLimits(workspace_low_m=(0.0, 0.0, 0.0), workspace_high_m=(1.0, 1.0, 0.5), step_limit_m=0.2)
START = np.array([0.1, 0.1, 0.1])


def test_waypoints_are_reached_in_equal_steps_within_the_stride() -> None:
    places = [np.array([0.6, 0.1, 0.1]), np.array([0.6, 0.2, 0.1])]
    actions = walk([Waypoint(place, OPEN) for place in places], START, 8, 0.15, LIMITS)
    hands = START + actions[:, :3].cumsum(0)
    np.testing.assert_allclose(hands[3], places[0])  # 0.5 m in 4 steps of 0.125
    np.testing.assert_allclose(np.linalg.norm(actions[:4, :3], axis=1), 0.125)
    np.testing.assert_allclose(hands[4:], np.tile(places[1], (4, 1)))  # and remains there
    assert (actions[:, 3] == OPEN).all()


def test_steps_and_positions_are_within_the_limits() -> None:
    actions = walk([Waypoint(np.array([2.0, 0.1, 0.1]), CLOSE)], START, 6, 9.0, LIMITS)
    assert np.linalg.norm(actions[:, :3], axis=1).max() <= 0.2 + 1e-12
    np.testing.assert_allclose(START + actions[:, :3].sum(0), [1.0, 0.1, 0.1])


def test_the_gripper_changes_at_the_last_step_of_its_waypoint() -> None:
    route = [Waypoint(np.array([0.4, 0.1, 0.1]), OPEN, CLOSE), Waypoint(np.array([0.4, 0.1, 0.3]), CLOSE)]
    assert walk(route, START, 5, 0.2, LIMITS)[:, 3].tolist() == [OPEN, CLOSE, CLOSE, CLOSE, CLOSE]


def test_a_long_path_is_truncated() -> None:
    assert walk([Waypoint(np.array([0.9, 0.9, 0.4]), OPEN)], START, 2, 0.1, LIMITS).shape == (2, 4)


def test_a_short_path_is_extended_with_noise() -> None:
    onward = np.array([0.3, 0.1, 0.1])
    actions = walk([Waypoint(START, CLOSE)], START, 3, 0.2, LIMITS, onward=lambda: onward)
    np.testing.assert_allclose(START + actions[:, :3].cumsum(0), [START, onward, onward])
