"""Counts everything that a run begins and its result, and shows it on stderr."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from configs.command import print_result
from configs.progress import ProgressBar, duration
from data_collection.collection.events import (
    ClosedEvent,
    EventListener,
    FailedEvent,
    LostEvent,
    ReplacedEvent,
    TickEvent,
    WaitingEvent,
)
from data_collection.policies.object_detection import MOVED_M

_RECENT = 200  # episodes from which the remaining time is estimated; ours


@dataclass
class CollectionProgress(EventListener):
    """Adds up the events of one run."""

    n_present: int  # episodes in the folder at the start
    present_s: float  # their recorded time
    n_target: int  # episodes to reach, including those present
    target_s: float | None  # recorded time to reach; None where episodes are counted
    state: str = "collecting"  # or the reason why no attempt succeeds at present
    closed: int = 0
    recorded_s: float = 0.0
    n_bytes: int = 0
    lifted: int = 0  # episodes in which an object was held above the table
    moved: int = 0  # episodes in which an object moved by at least `MOVED_M`
    swept: int = 0  # table resets
    idle_episodes: int = 0  # consecutive episodes without object motion
    families: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)  # attempts that were aborted, by reason
    quarantined: Counter[str] = field(default_factory=Counter)  # complete attempts in quarantine, by reason
    lost: int = 0  # open episodes of processes that died or hung
    restarts: int = 0  # after a process died or hung
    renewals: int = 0  # processes replaced because of age or resource use
    rss_gib: float = 0.0
    descriptors: int = 0
    began_s: float = field(default_factory=time.monotonic)
    longest_gap_s: float = 0.0  # between two closed episodes
    closed_at_s: list[float] = field(default_factory=list)  # monotonic times of the most recent episodes

    @property
    def attempts(self) -> int:
        """Attempts that have ended, with any result."""
        return self.closed + self.dropped.total() + self.quarantined.total() + self.lost

    def on_closed(self, event: ClosedEvent) -> None:
        """Count an episode."""
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

    def on_failed(self, event: FailedEvent) -> None:
        """Count an attempt by its reason."""
        (self.quarantined if event.file else self.dropped)[event.kind] += 1

    def on_lost(self, event: LostEvent) -> None:
        """Count a restart, and the episode that was open."""
        self.lost += event.number is not None
        self.restarts += 1

    def on_waiting(self, event: WaitingEvent) -> None:
        """Set the state to the reason of the pause."""
        self.state = event.reason

    def on_replaced(self, event: ReplacedEvent) -> None:  # noqa: ARG002 - of the listener interface
        """Count a replacement."""
        self.renewals += 1

    def on_tick(self, event: TickEvent) -> None:
        """Keep the resource use."""
        self.rss_gib, self.descriptors = event.rss_gib, event.descriptors

    def is_done(self) -> bool:
        """Return whether the requested time is recorded; False where episodes are counted."""
        return self.target_s is not None and self.present_s + self.recorded_s >= self.target_s

    def left_s(self) -> float | None:
        """Return the estimated seconds to the target, from the most recent episodes; None before the first."""
        recent = [self.began_s, *self.closed_at_s][-_RECENT:]
        if len(recent) < 2:
            return None
        left = float(self.n_target - self.n_present - self.closed)
        if self.target_s is not None and self.recorded_s > 0:
            left = (self.target_s - self.present_s - self.recorded_s) / (self.recorded_s / self.closed)
        return max(0.0, left) * (time.monotonic() - recent[0]) / (len(recent) - 1)

    def line(self) -> str:
        """Return episodes, hours and losses in one line of text, for notifications."""
        hours = (self.present_s + self.recorded_s) / 3600
        counts = {"dropped": self.dropped.total(), "set aside": self.quarantined.total(), "lost": self.lost}
        losses = [f"{n} {what}" for what, n in counts.items() if n]
        return ", ".join([f"{self.n_present + self.closed} of {self.n_target} episodes", f"{hours:.2f} h", *losses])

    def summary(self) -> dict[str, object]:
        """Return all counts, ready for JSON."""
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


class ProgressDisplay(EventListener):
    """Shows a run on stderr, as a context manager; prints the summary to stdout at the end, however the run ends."""

    def __init__(self, folder: Path, progress: CollectionProgress) -> None:
        self._folder, self._progress = folder, progress
        self._bar = ProgressBar(
            "episodes", progress.n_target, completed=progress.n_present, estimates_time=False
        )  # a target in hours has another estimate: `CollectionProgress.left_s`

    def __enter__(self) -> ProgressDisplay:
        self._bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.__exit__()
        print_result({"folder": str(self._folder), **self._progress.summary()})

    def on_closed(self, event: ClosedEvent) -> None:  # noqa: ARG002 - of the listener interface
        """Advance the bar; the progress has counted the episode before."""
        self._bar.update(self._progress.n_present + self._progress.closed, _detail(self._progress))

    def on_failed(self, event: FailedEvent) -> None:
        """Print the reason."""
        where = f" (kept as {event.file})" if event.file else ""
        self._bar.say(f"episode {event.number}, attempt {event.attempt} dropped: {event.kind}: {event.reason}{where}")

    def on_lost(self, event: LostEvent) -> None:
        """Print the reason."""
        what = "" if event.number is None else f"episode {event.number} lost: "
        self._bar.say(f"{what}{event.reason}; starting another process")

    def on_waiting(self, event: WaitingEvent) -> None:
        """Print the pause and its reason."""
        self._bar.say(f"retrying in {event.pause_s:.0f} s: {event.reason}")

    def on_replaced(self, event: ReplacedEvent) -> None:
        """Print the reason."""
        self._bar.say(f"replaced a process: {event.reason}")


def _detail(progress: CollectionProgress) -> str:
    hours = (progress.present_s + progress.recorded_s) / 3600
    total = "" if progress.target_s is None else f" of {progress.target_s / 3600:g}"
    left_s = progress.left_s()
    parts = [f"{hours:.2f}{total} h recorded", f"about {duration(left_s)} left" if left_s is not None else ""]
    parts += _counts("dropped", progress.dropped) + _counts("set aside", progress.quarantined)
    return ", ".join([part for part in parts if part] + ([f"{progress.lost} lost"] if progress.lost else []))


def _counts(what: str, counts: Mapping[str, int]) -> list[str]:
    return [f"{sum(counts.values())} {what}"] if counts else []
