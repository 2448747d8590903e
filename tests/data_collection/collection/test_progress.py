"""Progress of a run: every attempt is counted once; the remaining time is estimated from the last episodes."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_collection.collection import progress as module
from data_collection.collection.events import (
    ClosedEvent,
    Event,
    FailedEvent,
    LostEvent,
    ReplacedEvent,
    TickEvent,
    WaitingEvent,
)
from data_collection.collection.progress import CollectionProgress
from tests.data_collection.folders import row


def closed(number: int = 0, swept: bool = False, idle_episodes: int = 0, **changes: object) -> ClosedEvent:
    return ClosedEvent(row(number, 0.0, **changes), swept, idle_episodes)


KINDS = st.sampled_from(["RobotFault", "frozen_camera", "bad_light"])
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(closed, st.integers(0, 99), st.booleans(), st.integers(0, 9), families=st.sampled_from(["push", "a,b"])),
    st.builds(
        FailedEvent,
        st.integers(0, 99),
        st.integers(0, 4),
        KINDS,
        st.just("why"),
        st.sampled_from([None, "x.aside"]),
        st.booleans(),
    ),
    st.builds(LostEvent, st.none() | st.integers(0, 99), st.just("a process died"), st.booleans()),
    st.builds(WaitingEvent, st.just("nothing succeeds"), st.floats(0, 900)),
    st.builds(ReplacedEvent, st.just("it was 6 h old")),
    st.builds(TickEvent, st.floats(0, 8), st.integers(0, 900)),
)


@given(st.lists(EVENTS, max_size=40), st.integers(0, 5))
def test_attempts_add_up_by_reason(events: list[Event], n_present: int) -> None:
    account = CollectionProgress(n_present, 18.0 * n_present, 100, None)
    for event in events:
        account.handle(event)
    rows = [event for event in events if isinstance(event, ClosedEvent)]
    failures = [event for event in events if isinstance(event, FailedEvent)]
    losses = [event for event in events if isinstance(event, LostEvent)]
    n_open = sum(loss.number is not None for loss in losses)
    assert account.attempts == len(rows) + len(failures) + n_open
    assert account.dropped == Counter(failure.kind for failure in failures if failure.file is None)
    assert account.quarantined == Counter(failure.kind for failure in failures if failure.file is not None)
    assert (account.closed, account.lost, account.restarts) == (len(rows), n_open, len(losses))
    assert account.renewals == sum(isinstance(event, ReplacedEvent) for event in events)
    assert account.recorded_s == 18.0 * len(rows) and account.n_bytes == 1000 * len(rows)
    assert account.families.total() == sum(event.row.families.count(",") + 1 for event in rows)
    summary = account.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["attempts"] == account.attempts and summary["episodes_in_folder"] == n_present + len(rows)


def test_properties_of_episodes_are_counted() -> None:
    account = CollectionProgress(0, 0.0, 10, None)
    for event in (
        closed(0, lifted=True, objects_moved_m=0.03, families="push,grasp"),
        closed(1, swept=True, idle_episodes=7, objects_moved_m=0.0299, families="push"),
        closed(2, swept=True, objects_moved_m=0.5, families="noise"),
    ):
        account.handle(event)
    assert (account.lifted, account.moved, account.swept, account.idle_episodes) == (1, 2, 2, 0)
    assert account.summary()["families"] == {"grasp": 1, "noise": 1, "push": 2}


def test_the_state_is_waiting_until_an_episode_closes() -> None:
    account = CollectionProgress(0, 0.0, 10, None)
    states = []
    for event in (
        WaitingEvent("no light", 5.0),
        FailedEvent(0, 0, "bad_light", "dark", None, False),
        TickEvent(1.5, 70),
        closed(),
    ):
        account.handle(event)
        states.append(account.state)
    assert states == ["no light", "no light", "no light", "collecting"]
    assert (account.rss_gib, account.descriptors) == (1.5, 70)


class Clock:
    """A monotonic clock that is advanced by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now_s))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_remaining_time_of_episodes_follows_earlier_ones(clock: Clock) -> None:
    account = CollectionProgress(2, 36.0, 10, None, began_s=clock.now_s)
    assert account.left_s() is None
    for number, left_s in enumerate([140.0, 120.0, 100.0, 80.0]):
        clock.now_s += 20.0
        account.handle(closed(number))
        assert account.left_s() == pytest.approx(left_s)
    clock.now_s += 80.0  # without a closed episode
    assert account.left_s() == pytest.approx(160.0)
    for number in range(9):
        account.handle(closed(number))
    assert account.left_s() == 0.0  # more than requested


def test_remaining_time_of_hours_follows_earlier_ones(clock: Clock) -> None:
    account = CollectionProgress(1, 100.0, 10**6, 1000.0, began_s=clock.now_s)
    assert account.left_s() is None
    for number in range(10):
        clock.now_s += 30.0
        account.handle(closed(number, recorded_s=20.0))
    assert account.left_s() == pytest.approx((1000.0 - 100.0 - 200.0) / 20.0 * 30.0)


def test_only_the_last_episodes_determine_the_remaining_time(clock: Clock) -> None:
    account = CollectionProgress(0, 0.0, 1300, None, began_s=clock.now_s)
    for number in range(1200):
        clock.now_s += 1.0 if number < 1000 else 9.0
        account.handle(closed(number))
    assert account.left_s() == pytest.approx(100 * 9.0)
    assert len(account.closed_at_s) <= 201


def test_a_target_in_hours_is_done_once_recorded() -> None:
    account = CollectionProgress(1, 50.0, 100, 110.0)
    done = []
    for number in range(3):
        account.handle(closed(number, recorded_s=20.0))
        account.handle(TickEvent(1.0, 10))
        done.append(account.is_done())
    assert done == [False, False, True]
    assert not CollectionProgress(10, 1e9, 10, None).is_done()  # the numbers of episodes are limited
    assert CollectionProgress(1, 110.0, 1, 110.0).is_done()


def test_the_longest_gap_counts_from_the_start(clock: Clock) -> None:
    account = CollectionProgress(0, 0.0, 10, None, began_s=clock.now_s)
    gaps = []
    for number, gap_s in enumerate([7.0, 3.0, 11.0, 2.0]):
        clock.now_s += gap_s
        account.handle(closed(number))
        gaps.append(account.longest_gap_s)
    assert gaps == [7.0, 7.0, 11.0, 11.0]
    assert account.summary()["seconds"] == 23.0
