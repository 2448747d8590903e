"""What happened to a collection besides episodes that were closed: one JSON line an event, in the order of time."""

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
DONE, STOPPED = "done", "stopped"  # why a run ended; else the reason in words
_DAY_S = 86400.0

Value = str | int | float | bool | None


@dataclass
class JournalSummary:
    """What a journal tells of all runs of a collection together."""

    dropped: Counter[str] = field(default_factory=Counter)  # attempts without an episode, by reason
    quarantined: Counter[str] = field(default_factory=Counter)  # whole episodes that were set aside, by reason
    lost: int = 0  # episodes that were open when a process died or hung
    restarts: int = 0
    sweeps: int = 0
    runs: int = 0
    interventions: int = 0  # starts after an end that was not the end of the work: somebody had to come
    running_s: float = 0.0

    @property
    def interventions_per_day(self) -> float:
        """Interventions in 24 h of running."""
        return self.interventions / self.running_s * _DAY_S if self.running_s else 0.0


class Journal:
    """Appends to the journal of a folder; several may, each line is written at once."""

    def __init__(self, folder: Path) -> None:
        """Write nothing yet."""
        self._path = folder / JOURNAL_NAME

    def note(self, event: str, details: Mapping[str, Value] | None = None) -> None:
        """Add an event, flushed to the disk.

        Raises:
            OSError: The disk is full or at fault.
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
    """Return what ends the last line of a file, where a crash has torn it, so that it takes no other with it."""
    n_bytes = os.fstat(descriptor).st_size
    return "\n" if n_bytes and os.pread(descriptor, 1, n_bytes - 1) != b"\n" else ""


def read(folder: Path) -> list[dict[str, Value]]:
    """Return the events of a folder's journal; a line that a crash has torn is left out."""
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
    """Add up a journal. A run without an end lasted until the last thing that was heard of it."""
    history = JournalSummary()
    began_s = heard_s = 0.0
    ended: str | None = DONE  # why; None while a run goes on
    for event in events:
        name, now_s = str(event["event"]), float(event["time_s"] or 0.0)
        if name == "started":
            history.running_s += heard_s - began_s
            history.runs += 1
            history.interventions += ended != DONE
            began_s, heard_s, ended = now_s, now_s, None
        elif ended is None and not _is_by_hand(name, event):
            heard_s = max(heard_s, now_s)  # a clock may be set back
        if name == "ended":
            ended = str(event.get("why"))
        _count(history, name, event)
    history.running_s += heard_s - began_s
    return history


def _is_by_hand(name: str, event: Mapping[str, Value]) -> bool:
    """Tell whether a person set a file aside, who may do so long after a run; a run tells of an attempt."""
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
