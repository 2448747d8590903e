"""State machine of recoveries from reflexes."""

from __future__ import annotations

import pytest

from robot_bridge.franka import recovery as modes
from robot_bridge.franka.config import RecoveryConfig
from robot_bridge.franka.recovery import RecoveryState, RecoveryStateMachine

CONFIG = RecoveryConfig(per_episode=3, per_hour=5, back_off_s=1.0)


def recover(recovery: RecoveryStateMachine, now_s: float) -> RecoveryState:
    """Run one reflex and its recovery."""
    assert recovery.observe_mode(modes.REFLEX, now_s) is RecoveryState.REFLEX
    recovery.goal_sent()
    return recovery.observe_mode(modes.MOVING, now_s + 0.1)


@pytest.mark.parametrize("mode", [modes.IDLE, modes.MOVING, modes.GUIDING, modes.RECOVERING])
def test_moving_arm_is_ready(mode: int) -> None:
    assert RecoveryStateMachine(CONFIG).observe_mode(mode, 0.0) is RecoveryState.READY


def test_reflex_is_counted_once() -> None:
    recovery = RecoveryStateMachine(CONFIG)
    for now_s in range(100):
        assert recovery.observe_mode(modes.REFLEX, float(now_s)) is RecoveryState.REFLEX
    recovery.goal_sent()
    assert recovery.observe_mode(modes.IDLE, 101.0) is RecoveryState.READY


def test_one_goal_per_reflex() -> None:
    recovery = RecoveryStateMachine(CONFIG)
    recovery.observe_mode(modes.REFLEX, 0.0)
    recovery.goal_sent()
    for now_s in range(1, 50):
        assert recovery.observe_mode(modes.REFLEX, float(now_s)) is RecoveryState.RECOVERING


def test_reflex_after_a_failed_goal_counts_as_another() -> None:
    recovery, states = RecoveryStateMachine(CONFIG), []
    recovery.observe_mode(modes.REFLEX, 0.0)
    for now_s in (1.0, 2.0, 3.0):
        recovery.goal_sent()
        states.append(recovery.goal_failed(now_s))
    assert states == [RecoveryState.REFLEX, RecoveryState.REFLEX, RecoveryState.PARKED]
    assert "3 reflexes in this episode and 3 in an hour" in recovery.reason()


def test_back_off_doubles_before_each_goal() -> None:
    recovery, waits = RecoveryStateMachine(CONFIG), []
    for i in range(3):
        recovery.observe_mode(modes.REFLEX, 100.0 * i)
        waits.append(recovery.due_s - 100.0 * i)
        recovery.goal_sent()
        recovery.observe_mode(modes.IDLE, 100.0 * i + 50)
    assert waits == [1.0, 2.0, 4.0]


def test_last_recovery_of_an_episode_parks() -> None:
    recovery = RecoveryStateMachine(CONFIG)
    assert [recover(recovery, float(i)) for i in range(3)] == [
        RecoveryState.READY,
        RecoveryState.READY,
        RecoveryState.LAST,
    ]
    recovery.park()
    for mode in (modes.IDLE, modes.MOVING, modes.REFLEX):
        assert recovery.observe_mode(mode, 10.0) is RecoveryState.PARKED
    assert "3 reflexes in this episode" in recovery.reason()


def test_reflex_while_parking_is_final() -> None:
    recovery = RecoveryStateMachine(CONFIG)
    assert [recover(recovery, float(i)) for i in range(3)][-1] is RecoveryState.LAST
    assert recovery.observe_mode(modes.REFLEX, 4.0) is RecoveryState.PARKED


def test_new_episode_resets_only_its_own_budget() -> None:
    recovery, states = RecoveryStateMachine(CONFIG), []
    for i in range(5):
        recovery.begin_episode()
        states.append(recover(recovery, float(i)))
    assert states == [RecoveryState.READY] * 4 + [RecoveryState.LAST]


def test_reflexes_older_than_an_hour_do_not_count() -> None:
    recovery = RecoveryStateMachine(CONFIG)
    for i in range(20):
        recovery.begin_episode()
        assert recover(recovery, 1000.0 * i) is RecoveryState.READY


def test_zero_budget_parks_at_the_first_reflex() -> None:
    assert RecoveryStateMachine(RecoveryConfig(per_episode=0)).observe_mode(modes.REFLEX, 0.0) is RecoveryState.PARKED


def test_user_stop_is_final() -> None:
    recovery = RecoveryStateMachine(CONFIG)
    assert recovery.observe_mode(modes.USER_STOPPED, 0.0) is RecoveryState.STOPPED
    recovery.begin_episode()
    recovery.park()
    for mode in (modes.IDLE, modes.MOVING, modes.REFLEX):
        assert recovery.observe_mode(mode, 1.0) is RecoveryState.STOPPED
    assert "the user stop was pressed" in recovery.reason()


def test_user_stop_during_a_recovery_is_final() -> None:
    recovery = RecoveryStateMachine(CONFIG)
    recovery.observe_mode(modes.REFLEX, 0.0)
    recovery.goal_sent()
    assert recovery.observe_mode(modes.USER_STOPPED, 0.5) is RecoveryState.STOPPED


def test_arm_recovered_by_another_program_is_ready() -> None:
    recovery = RecoveryStateMachine(CONFIG)
    recovery.observe_mode(modes.REFLEX, 0.0)
    assert recovery.observe_mode(modes.IDLE, 1.0) is RecoveryState.READY


def test_parked_arm_keeps_its_reason() -> None:
    recovery = RecoveryStateMachine(CONFIG)
    assert [recover(recovery, float(i)) for i in range(3)][-1] is RecoveryState.LAST
    recovery.park()
    recovery.begin_episode()
    assert "3 reflexes in this episode" in recovery.reason()
