"""What an examination found: one thing that was looked at, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from configs.command import ReportedError


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    is_good: bool
    seen: str
    fix: str = ""  # what to do; empty where all is well


def look(subject: str, examine: Callable[[], str]) -> Finding:
    """Return what an examination says, or the error that it raises, whose last part says what to do."""
    try:
        return Finding(subject, True, examine())
    except ReportedError as error:
        seen, _, fix = str(error).rpartition("; ")
        return Finding(subject, False, seen or fix, fix if seen else "")
