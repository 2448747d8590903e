"""Events of a collection: one class per event, dispatched to the methods of listeners.

A worker process sends a `WorkerEvent`; the supervisor handles it and reports an `Event`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from data_collection.storage.index import Row


@dataclass(frozen=True)
class ReadyEvent:
    """A worker has connected to its robot."""

    robot: str  # its name


@dataclass(frozen=True)
class ClosedEvent:
    """An episode is complete and flushed to disk."""

    row: Row
    swept: bool  # the table was reset before it
    idle_episodes: int  # consecutive episodes, this one included, in which no object moved


@dataclass(frozen=True)
class FailedEvent:
    """An attempt that produced no episode."""

    number: int
    attempt: int
    kind: str
    reason: str
    file: str | None  # in quarantine; None where no complete episode was recorded
    is_fault: bool  # the arm stopped with a fault


@dataclass(frozen=True)
class GaveUpEvent:
    """A worker cannot continue: all attempts at an episode failed, or an error that it cannot clear."""

    reason: str
    needs_person: bool  # an operator is required; otherwise another process may succeed, now or later


@dataclass(frozen=True)
class LostEvent:
    """A process died or hung; its open episode is collected again."""

    number: int | None
    reason: str
    is_given_up: bool  # the number is abandoned and another episode replaces it


@dataclass(frozen=True)
class WaitingEvent:
    """No attempt succeeds at present; the next one starts after a pause."""

    reason: str
    pause_s: float


@dataclass(frozen=True)
class ReplacedEvent:
    """A process was replaced between two episodes because of its age or resource use."""

    reason: str


@dataclass(frozen=True)
class TickEvent:
    """Resource use of all processes; reported at least every few seconds."""

    rss_gib: float
    descriptors: int


WorkerEvent: TypeAlias = ReadyEvent | ClosedEvent | FailedEvent | GaveUpEvent
Event: TypeAlias = ClosedEvent | FailedEvent | LostEvent | WaitingEvent | ReplacedEvent | TickEvent


class EventListener:
    """Base of the classes that follow the events of a run; each event calls the method of its class."""

    def handle(self, event: Event) -> None:
        """Call the method for the event's class."""
        match event:
            case ClosedEvent():
                self.on_closed(event)
            case FailedEvent():
                self.on_failed(event)
            case LostEvent():
                self.on_lost(event)
            case WaitingEvent():
                self.on_waiting(event)
            case ReplacedEvent():
                self.on_replaced(event)
            case TickEvent():
                self.on_tick(event)

    def on_closed(self, event: ClosedEvent) -> None:
        """Handle an episode that was closed. Does nothing by default, as all methods below."""

    def on_failed(self, event: FailedEvent) -> None:
        """Handle an attempt that failed."""

    def on_lost(self, event: LostEvent) -> None:
        """Handle a process that died or hung."""

    def on_waiting(self, event: WaitingEvent) -> None:
        """Handle a pause."""

    def on_replaced(self, event: ReplacedEvent) -> None:
        """Handle a process that was replaced."""

    def on_tick(self, event: TickEvent) -> None:
        """Handle the periodic event."""
