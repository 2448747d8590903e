"""Limits on actions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from robot_bridge.safety import MotionLimits, UnsafeActionError, limit_action, limit_actions

LIMITS = MotionLimits(workspace_low_m=(0.3, -0.2, 0.0), workspace_high_m=(0.7, 0.2, 0.3), step_limit_m=0.1)
LOW, HIGH = np.array(LIMITS.workspace_low_m), np.array(LIMITS.workspace_high_m)
numbers = st.floats(-1e6, 1e6)
actions = st.tuples(numbers, numbers, numbers, numbers).map(lambda values: np.array(values, dtype=np.float32))
inside = st.tuples(st.floats(0.3, 0.7), st.floats(-0.2, 0.2), st.floats(0.0, 0.3)).map(np.array)


@given(action=actions, hand=inside)
def test_applied_action_stays_within_step_limit_and_workspace(action: np.ndarray, hand: np.ndarray) -> None:
    applied = limit_action(action, hand, LIMITS)
    assert np.linalg.norm(applied[:3]) <= LIMITS.step_limit_m + 1e-6
    assert (hand + applied[:3] >= LOW - 1e-6).all()
    assert (hand + applied[:3] <= HIGH + 1e-6).all()
    assert applied[3] == (1.0 if action[3] > 0 else -1.0)


@given(action=actions, hand=inside)
def test_limiting_twice_changes_nothing(action: np.ndarray, hand: np.ndarray) -> None:
    once = limit_action(action, hand, LIMITS)
    np.testing.assert_allclose(limit_action(once, hand, LIMITS), once, atol=1e-6)


@given(action=actions, hand=st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.floats(-2, 2)).map(np.array))
def test_hand_outside_moves_only_inwards_within_the_step_limit(action: np.ndarray, hand: np.ndarray) -> None:
    applied = limit_action(action, hand, LIMITS)
    assert np.linalg.norm(applied[:3]) <= LIMITS.step_limit_m + 1e-6
    outside = np.maximum(LOW - hand, 0) + np.maximum(hand - HIGH, 0)
    moved = hand + applied[:3]
    assert (np.maximum(LOW - moved, 0) + np.maximum(moved - HIGH, 0) <= outside + 1e-6).all()


def test_zero_motion_outside_the_workspace_is_unchanged() -> None:
    applied = limit_action(np.array([0, 0, 0, 1.0]), np.array([0.5, 0.0, 0.9]), LIMITS)
    np.testing.assert_array_equal(applied, [0, 0, 0, 1])


def test_safe_action_is_unchanged() -> None:
    action = np.array([0.03, -0.02, 0.01, -1.0], dtype=np.float32)
    np.testing.assert_allclose(limit_action(action, np.array([0.5, 0.0, 0.1]), LIMITS), action, atol=1e-7)


def test_direction_is_kept_when_a_long_step_is_shortened() -> None:
    applied = limit_action(np.array([3.0, 4.0, 0.0, 1.0]), np.array([0.5, 0.0, 0.1]), LIMITS)
    np.testing.assert_allclose(applied[:3], [0.06, 0.08, 0.0], atol=1e-6)


@pytest.mark.parametrize(("value", "expected"), [(0.0, -1.0), (1e-3, 1.0), (-0.0, -1.0), (7.0, 1.0)])
def test_gripper_becomes_binary(value: float, expected: float) -> None:
    assert limit_action(np.array([0, 0, 0, value]), np.array([0.5, 0.0, 0.1]), LIMITS)[3] == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", range(4))
def test_non_finite_actions_are_refused(value: float, place: int) -> None:
    action = np.zeros(4)
    action[place] = value
    with pytest.raises(UnsafeActionError, match="finite"):
        limit_action(action, np.array([0.5, 0.0, 0.1]), LIMITS)


def test_non_finite_hand_position_is_refused() -> None:
    with pytest.raises(UnsafeActionError, match="finite"):
        limit_action(np.zeros(4), np.array([0.5, np.nan, 0.1]), LIMITS)


@pytest.mark.parametrize("shape", [(3,), (5,), (1, 4), ()])
def test_invalid_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UnsafeActionError, match="shape"):
        limit_action(np.zeros(shape), np.array([0.5, 0.0, 0.1]), LIMITS)


def test_sequences_are_limited_as_if_executed_one_by_one() -> None:
    rng = np.random.default_rng(0)
    sequences = rng.normal(0, 0.2, (5, 6, 4))
    hand = np.array([0.4, 0.1, 0.05])
    applied = limit_actions(sequences, hand, LIMITS)
    for sequence, result in zip(sequences, applied, strict=True):
        here = hand
        for action, expected in zip(sequence, result, strict=True):
            one = limit_action(action, here, LIMITS)
            np.testing.assert_allclose(one, expected, atol=1e-6)
            here = here + one[:3]


def test_inverted_workspace_is_refused() -> None:
    with pytest.raises(ValidationError, match="below"):
        MotionLimits(workspace_low_m=(0.3, 0.2, 0.0), workspace_high_m=(0.7, -0.2, 0.3), step_limit_m=0.1)
