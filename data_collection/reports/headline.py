"""A collection in a few numbers, from its index and its journal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise

from data_collection.storage.index import Row
from data_collection.storage.journal import History, Value

_MINUTE_S, _HOUR_S, _DAY_S = 60.0, 3600.0, 86400.0
_BY_MINUTE_S, _BY_HOUR_S = 3 * _HOUR_S, 14 * _DAY_S  # what lasted less is shown by minute, or by hour; ours
_MOST_STRETCHES = 400  # about; ours


def headline(rows: Sequence[Row], events: Sequence[Mapping[str, Value]], history: History) -> list[tuple[str, str]]:
    """Return names and numbers, ready to be shown; without a journal, only what the episodes tell."""
    gap_s = longest_gap_s(rows, events)
    recorded_h = sum(row.recorded_s for row in rows) / _HOUR_S
    numbers = [
        ("Episodes", f"{len(rows)}"),
        ("Hours recorded", f"{recorded_h:.2f}"),
        ("Size", size(sum(row.n_bytes for row in rows))),
        ("Attempts", f"{len(rows) + failed(rows, history)}"),
        ("Longest gap", duration(gap_s)),
    ]
    if history.runs:
        numbers += [
            ("Hours running", f"{history.running_s / _HOUR_S:.2f}"),
            ("Dropped", f"{history.dropped.total()}"),
            ("Set aside", f"{history.quarantined.total()}"),
            ("Lost", f"{history.lost}"),
            ("Restarts", f"{history.restarts}"),
            ("Sweeps", f"{history.sweeps}"),
            ("Interventions in 24 h", f"{history.interventions_per_day:.2g}"),
        ]
    return numbers


def failed(rows: Sequence[Row], history: History) -> int:
    """Return how many attempts gave no episode; without a journal, those before the episodes that there are."""
    if not history.runs:
        return sum(row.attempt for row in rows)
    return history.dropped.total() + history.quarantined.total() + history.lost


def longest_gap_s(rows: Sequence[Row], events: Sequence[Mapping[str, Value]]) -> float:
    """Return the longest time between two closed episodes while a run was going on."""
    marks = [(row.closed_s, "closed") for row in rows]
    marks += [(float(event["time_s"] or 0.0), str(event["event"])) for event in events]
    marks = sorted(mark for mark in marks if mark[1] in ("closed", "started", "ended"))
    return max((later - sooner for (sooner, _), (later, what) in pairwise(marks) if what != "started"), default=0.0)


def by_time(rows: Sequence[Row]) -> tuple[str, list[tuple[str, list[Row]]]]:
    """Return the name of a stretch of time (a minute, an hour, days), and label and episodes closed in each of them.

    Args:
        rows: At least one.
    """
    times_s = [row.closed_s for row in rows]
    lasted_s = max(times_s) - min(times_s)
    if lasted_s < _BY_MINUTE_S:
        name, width_s, form = "minute", _MINUTE_S, "%H:%M"
    elif lasted_s < _BY_HOUR_S:
        name, width_s, form = "hour", _HOUR_S, "%d %b %H:%M"
    else:
        n_days = max(1, round(lasted_s / _DAY_S / _MOST_STRETCHES))
        name, width_s, form = "day" if n_days == 1 else f"{n_days} days", n_days * _DAY_S, "%d %b %Y"
    first, last = (math.floor(end_s / width_s) for end_s in (min(times_s), max(times_s)))
    stretches: list[list[Row]] = [[] for _ in range(last - first + 1)]
    for row in rows:
        stretches[math.floor(row.closed_s / width_s) - first].append(row)
    return name, [(moment((first + i) * width_s, form), stretch) for i, stretch in enumerate(stretches)]


def moment(time_s: float, form: str = "%Y-%m-%d %H:%M") -> str:
    """Return Unix time as this machine's wall clock shows it."""
    return datetime.fromtimestamp(time_s).astimezone().strftime(form)


def duration(seconds: float) -> str:
    """Return a duration in one unit that fits."""
    for limit_s, unit_s, unit in ((100, 1, "s"), (100 * _MINUTE_S, _MINUTE_S, "min"), (math.inf, _HOUR_S, "h")):
        if seconds < limit_s:
            return f"{seconds / unit_s:.1f} {unit}"
    raise ValueError(f"expected a duration, got {seconds}")


def size(n_bytes: int) -> str:
    """Return a number of bytes in one unit that fits."""
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MiB"
