"""Journal of a collection: one JSON line per event, in order of time, without closed episodes."""

from __future__ import annotations

import errno
import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

JOURNAL_NAME = "journal.jsonl"
DONE, STOPPED = "done", "stopped"  # results of a run; otherwise a reason as text
_DAY_S = 86400.0

Value = str | int | float | bool | None


@dataclass
class JournalSummary:
    """Totals of all runs of a collection."""

    dropped: Counter[str] = field(default_factory=Counter)  # aborted attempts, by reason
    quarantined: Counter[str] = field(default_factory=Counter)  # complete episodes in quarantine, by reason
    lost: int = 0  # open episodes of processes that died or hung
    restarts: int = 0
    sweeps: int = 0
    runs: int = 0
    interventions: int = 0  # starts after a run that ended before its target
    running_s: float = 0.0

    @property
    def interventions_per_day(self) -> float:
        """Interventions per 24 h of running time."""
        return self.interventions / self.running_s * _DAY_S if self.running_s else 0.0


class Journal:
    """Appends to the journal of a folder. Several processes may append; each line is a single write."""

    def __init__(self, folder: Path) -> None:
        """Write nothing."""
        self._path = folder / JOURNAL_NAME

    def note(self, event: str, details: Mapping[str, Value] | None = None) -> None:
        """Append an event and flush it to the disk.

        Raises:
            OSError: The disk is full or failing.
        """
        line = json.dumps({"time_s": round(time.time(), 3), "event": event, **(details or {})}, separators=(",", ":"))
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            data = f"{_line_end(descriptor)}{line}\n".encode()
            if os.write(descriptor, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _line_end(descriptor: int) -> str:
    """Return a newline if a crash left the last line incomplete, otherwise nothing."""
    n_bytes = os.fstat(descriptor).st_size
    return "\n" if n_bytes and os.pread(descriptor, 1, n_bytes - 1) != b"\n" else ""


def read(folder: Path) -> list[dict[str, Value]]:
    """Return the events of a folder's journal; incomplete lines are left out."""
    path = folder / JOURNAL_NAME
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return [event for event in map(_event, lines) if event is not None]


def _event(line: str) -> dict[str, Value] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if isinstance(event, dict) and isinstance(event.get("event"), str) and isinstance(event.get("time_s"), float):
        return event
    return None


def summarize(events: list[dict[str, Value]]) -> JournalSummary:
    """Add up a journal. A run without an end lasted until its last event."""
    history = JournalSummary()
    began_s = last_s = 0.0
    ended: str | None = DONE  # reason; None while a run continues
    for event in events:
        name, now_s = str(event["event"]), float(event["time_s"] or 0.0)
        if name == "started":
            history.running_s += last_s - began_s
            history.runs += 1
            history.interventions += ended != DONE
            began_s, last_s, ended = now_s, now_s, None
        elif ended is None and not _is_by_hand(name, event):
            last_s = max(last_s, now_s)  # a clock may be set back
        if name == "ended":
            ended = str(event.get("why"))
        _count(history, name, event)
    history.running_s += last_s - began_s
    return history


def _is_by_hand(name: str, event: Mapping[str, Value]) -> bool:
    """Return whether an event is from run_data quarantine, not from a run: it has no attempt."""
    return name == "quarantined" and "attempt" not in event


def _count(history: JournalSummary, name: str, event: Mapping[str, Value]) -> None:
    if name == "dropped":
        history.dropped[str(event.get("kind"))] += 1
    elif name == "quarantined":
        history.quarantined[str(event.get("kind"))] += 1
    elif name == "lost":
        history.lost += 1
    elif name == "restarted":
        history.restarts += 1
    elif name == "swept":
        history.sweeps += 1
