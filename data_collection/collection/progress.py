"""The account of a run: everything that was begun, and what became of it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from data_collection.collection.supervisor import Event, Lost, Renewed, Tick, Waiting
from data_collection.collection.worker import Closed, Failed
from data_collection.policies.scenery import MOVED_M

_RECENT = 200  # episodes from which the rest is estimated


@dataclass
class Account:
    """Adds up the events of one run."""

    n_present: int  # episodes that were there before
    present_s: float  # their recorded time
    n_wanted: int  # episodes, with those that were there
    wanted_s: float | None  # recorded time; None where episodes are counted
    state: str = "collecting"  # or why nothing succeeds for now
    closed: int = 0
    recorded_s: float = 0.0
    n_bytes: int = 0
    lifted: int = 0  # episodes in which something was held in the air
    moved: int = 0  # episodes in which an object was seen to go some way
    swept: int = 0
    dull_for: int = 0
    families: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)  # attempts that were broken off, by reason
    quarantined: Counter[str] = field(default_factory=Counter)  # whole attempts that were set aside, by reason
    lost: int = 0  # open episodes of processes that died or hung
    restarts: int = 0  # of processes that died or hung
    renewals: int = 0  # of processes that were old
    rss_gib: float = 0.0
    descriptors: int = 0
    began_s: float = field(default_factory=time.monotonic)
    longest_gap_s: float = 0.0  # between two closed episodes
    closed_at_s: list[float] = field(default_factory=list)  # monotonic; the last ones

    @property
    def attempts(self) -> int:
        """Attempts that have come to an end, of whatever kind."""
        return self.closed + self.dropped.total() + self.quarantined.total() + self.lost

    def take(self, event: Event) -> None:
        """Add an event."""
        if isinstance(event, Closed):
            self._close(event)
        elif isinstance(event, Failed):
            (self.quarantined if event.file else self.dropped)[event.kind] += 1
        elif isinstance(event, Lost):
            self.lost += event.number is not None
            self.restarts += 1
        elif isinstance(event, Waiting):
            self.state = event.reason
        elif isinstance(event, Renewed):
            self.renewals += 1
        elif isinstance(event, Tick):
            self.rss_gib, self.descriptors = event.rss_gib, event.descriptors

    def is_done(self) -> bool:
        """Tell whether as much time is recorded as was wanted."""
        return self.wanted_s is not None and self.present_s + self.recorded_s >= self.wanted_s

    def left_s(self) -> float | None:
        """Return about how many seconds the rest takes, as the last episodes went; None while nothing is known."""
        recent = [self.began_s, *self.closed_at_s][-_RECENT:]
        if len(recent) < 2:
            return None
        left = float(self.n_wanted - self.n_present - self.closed)
        if self.wanted_s is not None and self.recorded_s > 0:
            left = (self.wanted_s - self.present_s - self.recorded_s) / (self.recorded_s / self.closed)
        return max(0.0, left) * (time.monotonic() - recent[0]) / (len(recent) - 1)

    def summary(self) -> dict[str, object]:
        """Return the run in numbers, ready for JSON."""
        return {
            "episodes": self.closed,
            "episodes_in_folder": self.n_present + self.closed,
            "recorded_s": round(self.recorded_s, 3),
            "seconds": round(time.monotonic() - self.began_s, 1),
            "attempts": self.attempts,
            "families": dict(sorted(self.families.items())),
            "dropped": dict(sorted(self.dropped.items())),
            "quarantined": dict(sorted(self.quarantined.items())),
            "lost": self.lost,
            "restarts": self.restarts,
            "renewals": self.renewals,
            "sweeps": self.swept,
            "lifted": self.lifted,
            "moved": self.moved,
            "longest_gap_s": round(self.longest_gap_s, 1),
            "bytes": self.n_bytes,
        }

    def _close(self, event: Closed) -> None:
        now_s = time.monotonic()
        self.state = "collecting"
        self.closed += 1
        self.recorded_s += event.row.recorded_s
        self.n_bytes += event.row.n_bytes
        self.lifted += event.row.lifted
        self.moved += event.row.objects_moved_m >= MOVED_M
        self.swept += event.swept
        self.dull_for = event.dull_for
        self.families.update(event.row.families.split(","))
        self.longest_gap_s = max(self.longest_gap_s, now_s - (self.closed_at_s or [self.began_s])[-1])
        self.closed_at_s = [*self.closed_at_s[-_RECENT:], now_s]
