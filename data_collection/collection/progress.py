"""The account of a run: everything that was begun, and what became of it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from data_collection.collection.supervisor import Event, LostEvent, ReplacedEvent, TickEvent, WaitingEvent
from data_collection.collection.worker import ClosedEvent, FailedEvent
from data_collection.policies.object_detection import MOVED_M

_RECENT = 200  # episodes from which the rest is estimated


@dataclass
class CollectionProgress:
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
    idle_episodes: int = 0
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
        if isinstance(event, ClosedEvent):
            self._close(event)
        elif isinstance(event, FailedEvent):
            (self.quarantined if event.file else self.dropped)[event.kind] += 1
        elif isinstance(event, LostEvent):
            self.lost += event.number is not None
            self.restarts += 1
        elif isinstance(event, WaitingEvent):
            self.state = event.reason
        elif isinstance(event, ReplacedEvent):
            self.renewals += 1
        elif isinstance(event, TickEvent):
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

    def _close(self, event: ClosedEvent) -> None:
        now_s = time.monotonic()
        self.state = "collecting"
        self.closed += 1
        self.recorded_s += event.row.recorded_s
        self.n_bytes += event.row.n_bytes
        self.lifted += event.row.lifted
        self.moved += event.row.objects_moved_m >= MOVED_M
        self.swept += event.swept
        self.idle_episodes = event.idle_episodes
        self.families.update(event.row.families.split(","))
        self.longest_gap_s = max(self.longest_gap_s, now_s - (self.closed_at_s or [self.began_s])[-1])
        self.closed_at_s = [*self.closed_at_s[-_RECENT:], now_s]


_LINE_INTERVAL_S = 10.0  # between lines of progress where there is no terminal


class ProgressDisplay:
    """Shows a run on stderr as it goes, and prints the summary at the end, whatever ends it."""

    def __init__(self, folder: Path, account: CollectionProgress) -> None:
        console = Console(stderr=True)
        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(
            *columns, TextColumn("{task.fields[more]}"), console=console, disable=not console.is_terminal
        )
        self._task = self._bar.add_task("episodes", total=account.n_wanted, completed=account.n_present, more="")
        self._console = console
        self._folder = folder
        self._account = account
        self._line_s = time.monotonic()

    def __enter__(self) -> ProgressDisplay:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        print(json.dumps({"folder": str(self._folder), **self._account.summary()}), flush=True)

    def show(self, event: Event) -> None:
        """Tell of an event that the account has taken."""
        if isinstance(event, FailedEvent):
            where = f" (kept as {event.file})" if event.file else ""
            self._say(f"episode {event.number}, attempt {event.attempt} dropped: {event.kind}: {event.reason}{where}")
        elif isinstance(event, LostEvent):
            what = "" if event.number is None else f"episode {event.number} lost: "
            self._say(f"{what}{event.reason}; another process takes over")
        elif isinstance(event, WaitingEvent):
            self._say(f"waiting for {event.pause_s:.0f} s, then trying again: {event.reason}")
        elif isinstance(event, ReplacedEvent):
            self._say(f"a process was renewed: {event.reason}")
        elif isinstance(event, ClosedEvent):
            self._progress()

    def _progress(self) -> None:
        account, now_s = self._account, time.monotonic()
        more = _more(account)
        self._bar.update(self._task, completed=account.n_present + account.closed, more=more)
        if self._bar.disable and now_s - self._line_s >= _LINE_INTERVAL_S:
            self._line_s = now_s
            done = account.n_present + account.closed
            self._say(f"{done} of {account.n_wanted} episodes, {more}")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _more(account: CollectionProgress) -> str:
    hours = (account.present_s + account.recorded_s) / 3600
    wanted = "" if account.wanted_s is None else f" of {account.wanted_s / 3600:g}"
    left_s = account.left_s()
    parts = [f"{hours:.2f}{wanted} h recorded", f"about {duration(left_s)} left" if left_s is not None else ""]
    parts += _counts("dropped", account.dropped) + _counts("set aside", account.quarantined)
    return ", ".join([part for part in parts if part] + ([f"{account.lost} lost"] if account.lost else []))


def _counts(what: str, counts: Mapping[str, int]) -> list[str]:
    return [f"{sum(counts.values())} {what}"] if counts else []


def duration(seconds: float) -> str:
    """Return a duration in the two largest units that people use."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    if seconds < 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"
