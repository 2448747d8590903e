"""Events: each class calls the method of its name, and no other."""

from typing import get_args

import pytest

from data_collection.collection.events import (
    ClosedEvent,
    Event,
    EventListener,
    FailedEvent,
    LostEvent,
    ReplacedEvent,
    TickEvent,
    WaitingEvent,
)
from tests.data_collection.folders import row

EVENTS: list[Event] = [
    ClosedEvent(row(0, 0.0), False, 0),
    FailedEvent(0, 0, "bad_light", "dark", None, False),
    LostEvent(0, "died", False),
    WaitingEvent("no light", 5.0),
    ReplacedEvent("it was 6 h old"),
    TickEvent(1.0, 50),
]


def test_the_list_holds_every_event() -> None:
    assert {type(event) for event in EVENTS} == set(get_args(Event))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_calls_the_method_of_its_class(event: Event, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in [name for name in vars(EventListener) if name.startswith("on_")]:
        monkeypatch.setattr(EventListener, name, lambda _self, _event, name=name: calls.append(name))
    EventListener().handle(event)
    assert calls == [f"on_{type(event).__name__.removesuffix('Event').lower()}"]
