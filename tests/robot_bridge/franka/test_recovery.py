"""Whether an arm that stopped itself is freed without a person: every way through the state machine."""

from __future__ import annotations

import pytest

from robot_bridge.franka import recovery as modes
from robot_bridge.franka.config import RecoveryConfig
from robot_bridge.franka.recovery import RecoveryState, RecoveryStateMachine

CONFIG = RecoveryConfig(per_episode=3, per_hour=5, back_off_s=1.0)


def recover(recovery: RecoveryStateMachine, now_s: float) -> RecoveryState:
    """Go through one reflex and its recovery."""
    assert recovery.observe_mode(modes.REFLEX, now_s) is RecoveryState.REFLEX
    recovery.goal_sent()
    return recovery.observe_mode(modes.MOVING, now_s + 0.1)


@pytest.mark.parametrize("mode", [modes.IDLE, modes.MOVING, modes.GUIDING, modes.RECOVERING])
def test_an_arm_that_moves_is_ready(mode: int) -> None:
    assert RecoveryStateMachine(CONFIG).observe_mode(mode, 0.0) is RecoveryState.READY


def test_a_reflex_is_counted_once_however_often_it_is_seen() -> None:
    recovery = RecoveryStateMachine(CONFIG)
    for now_s in range(100):
        assert recovery.observe_mode(modes.REFLEX, float(now_s)) is RecoveryState.REFLEX
    recovery.goal_sent()
    assert recovery.observe_mode(modes.IDLE, 101.0) is RecoveryState.READY


def test_one_goal_for_one_reflex() -> None:
    recovery = RecoveryStateMachine(CONFIG)
    recovery.observe_mode(modes.REFLEX, 0.0)
    recovery.goal_sent()
    for now_s in range(1, 50):
        assert recovery.observe_mode(modes.REFLEX, float(now_s)) is RecoveryState.RECOVERING


def test_a_reflex_that_outlives_its_recovery_counts_as_another() -> None:
    recovery, stages = RecoveryStateMachine(CONFIG), []
    recovery.observe_mode(modes.REFLEX, 0.0)
    for now_s in (1.0, 2.0, 3.0):
        recovery.goal_sent()
        stages.append(recovery.goal_failed(now_s))
    assert stages == [RecoveryState.REFLEX, RecoveryState.REFLEX, RecoveryState.PARKED]
    assert "3 reflexes in this episode and 3 in an hour" in recovery.reason()


def test_it_waits_twice_as_long_before_each_goal() -> None:
    recovery, waits = RecoveryStateMachine(CONFIG), []
    for i in range(3):
        recovery.observe_mode(modes.REFLEX, 100.0 * i)
        waits.append(recovery.due_s - 100.0 * i)
        recovery.goal_sent()
        recovery.observe_mode(modes.IDLE, 100.0 * i + 50)
    assert waits == [1.0, 2.0, 4.0]


def test_the_last_recovery_of_an_episode_is_for_parking() -> None:
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


def test_a_reflex_on_the_way_to_parking_ends_there() -> None:
    recovery = RecoveryStateMachine(CONFIG)
    assert [recover(recovery, float(i)) for i in range(3)][-1] is RecoveryState.LAST
    assert recovery.observe_mode(modes.REFLEX, 4.0) is RecoveryState.PARKED


def test_a_new_episode_has_a_new_budget_but_the_hour_goes_on() -> None:
    recovery, stages = RecoveryStateMachine(CONFIG), []
    for i in range(5):
        recovery.begin_episode()
        stages.append(recover(recovery, float(i)))
    assert stages == [RecoveryState.READY] * 4 + [RecoveryState.LAST]


def test_what_is_older_than_an_hour_is_forgotten() -> None:
    recovery = RecoveryStateMachine(CONFIG)
    for i in range(20):
        recovery.begin_episode()
        assert recover(recovery, 1000.0 * i) is RecoveryState.READY


def test_no_budget_at_all_parks_at_the_first_reflex() -> None:
    assert RecoveryStateMachine(RecoveryConfig(per_episode=0)).observe_mode(modes.REFLEX, 0.0) is RecoveryState.PARKED


def test_a_user_stop_is_never_recovered_from() -> None:
    recovery = RecoveryStateMachine(CONFIG)
    assert recovery.observe_mode(modes.USER_STOPPED, 0.0) is RecoveryState.STOPPED
    recovery.begin_episode()
    recovery.park()
    for mode in (modes.IDLE, modes.MOVING, modes.REFLEX):
        assert recovery.observe_mode(mode, 1.0) is RecoveryState.STOPPED
    assert "a person has stopped the arm" in recovery.reason()


def test_a_user_stop_during_a_recovery_counts_as_one() -> None:
    recovery = RecoveryStateMachine(CONFIG)
    recovery.observe_mode(modes.REFLEX, 0.0)
    recovery.goal_sent()
    assert recovery.observe_mode(modes.USER_STOPPED, 0.5) is RecoveryState.STOPPED


def test_an_arm_that_somebody_else_has_freed_is_ready() -> None:
    recovery = RecoveryStateMachine(CONFIG)
    recovery.observe_mode(modes.REFLEX, 0.0)
    assert recovery.observe_mode(modes.IDLE, 1.0) is RecoveryState.READY


def test_a_parked_arm_goes_on_saying_why() -> None:
    recovery = RecoveryStateMachine(CONFIG)
    assert [recover(recovery, float(i)) for i in range(3)][-1] is RecoveryState.LAST
    recovery.park()
    recovery.begin_episode()
    assert "3 reflexes in this episode" in recovery.reason()
