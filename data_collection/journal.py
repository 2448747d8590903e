"""What happened to a collection besides episodes that were closed: one JSON line an event, in the order of time."""

from __future__ import annotations

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
class History:
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
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, f"{line}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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


def tell(events: list[dict[str, Value]]) -> History:
    """Add up a journal. A run without an end lasted until the last thing that was heard of it."""
    history = History()
    began_s = heard_s = 0.0
    ended: Value = DONE
    for event in events:
        name, now_s = event["event"], float(event["time_s"] or 0.0)
        if name == "started":
            history.running_s += max(0.0, heard_s - began_s)
            history.runs += 1
            history.interventions += ended != DONE
            began_s, ended = now_s, None
        elif name == "ended":
            ended = event.get("why")
        _count(history, str(name), event)
        heard_s = now_s
    history.running_s += max(0.0, heard_s - began_s)
    return history


def _count(history: History, name: str, event: Mapping[str, Value]) -> None:
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
