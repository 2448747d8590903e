"""Statistics of a collection: steps of its episodes, totals, and episodes over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_collection.episode import EpisodeError
from data_collection.formats.robonet_file import RobonetTrajectory, read_trajectory
from data_collection.storage.index import Row
from data_collection.storage.journal import JournalSummary, Value

_COLUMNS = 15  # of `StepStatistics.table`


@dataclass(frozen=True)
class StepStatistics:
    """N steps of episodes, in their order."""

    table: NDArray[np.float32]  # (N, 15)
    n_episodes: int  # number of episodes read
    unread: dict[str, str]  # files that could not be read, with the reason

    @property
    def moves_m(self) -> NDArray[np.float32]:
        """Applied dx, dy, dz (N, 3)."""
        return self.table[:, 0:3]

    @property
    def closes(self) -> NDArray[np.bool_]:
        """Whether the gripper was commanded to close or stay closed (N,)."""
        return self.table[:, 3] > 0

    @property
    def commanded_m(self) -> NDArray[np.float32]:
        """Commanded dx, dy, dz (N, 3), before the safety limits."""
        return self.table[:, 4:7]

    @property
    def hands_m(self) -> NDArray[np.float32]:
        """Hand position after each step (N, 3), base frame."""
        return self.table[:, 7:10]

    @property
    def measured_m(self) -> NDArray[np.float32]:
        """Measured motion of the hand (N, 3)."""
        return self.table[:, 10:13]

    @property
    def lasted_s(self) -> NDArray[np.float32]:
        """Duration of each step (N,)."""
        return self.table[:, 13]

    @property
    def openings(self) -> NDArray[np.float32]:
        """Gripper opening after each step (N,), 1 is open."""
        return self.table[:, 14]


def read_step_statistics(folder: Path, rows: Sequence[Row], most: int, rng: np.random.Generator) -> StepStatistics:
    """Read the steps of at most `most` episodes of a folder, drawn by `rng`.

    Episodes that cannot be read are listed in `unread`.
    """
    drawn = np.sort(rng.permutation(len(rows))[:most])
    tables: list[NDArray[np.float32]] = [np.empty((0, _COLUMNS), np.float32)]
    unread: dict[str, str] = {}
    for i in drawn:
        name = rows[i].file
        try:
            tables.append(_table(read_trajectory(folder / name)))
        except EpisodeError as error:
            unread[name] = str(error)
    return StepStatistics(np.concatenate(tables), len(tables) - 1, unread)


def _table(trajectory: RobonetTrajectory) -> NDArray[np.float32]:
    """Return one episode's rows (T, 15)."""
    own = trajectory.own
    if own is None:
        raise EpisodeError("expected an episode of a collection, got a file of another origin")
    states = own["env/state_si"]
    columns = [
        trajectory.actions[:, :3],
        np.where(trajectory.actions[:, 4] < 0.5, 1, -1),  # RoboNet's gripper: 1 opens, 0 closes
        own["policy/commanded_actions"][:, :3],
        states[1:, :3],
        np.diff(states[:, :3], axis=0),
        np.diff(own["env/timestamps"]),
        states[1:, 4],
    ]
    return np.column_stack(columns).astype(np.float32)


_MINUTE_S, _HOUR_S, _DAY_S = 60.0, 3600.0, 86400.0
_BY_MINUTE_S, _BY_HOUR_S = 3 * _HOUR_S, 14 * _DAY_S  # shorter collections are shown by minute, or by hour; ours
_MOST_STRETCHES = 400  # approximate maximum; ours


def summary_numbers(
    rows: Sequence[Row], events: Sequence[Mapping[str, Value]], history: JournalSummary
) -> list[tuple[str, str]]:
    """Return names and values for display; without a journal, only those of the episodes."""
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
            ("Hours on the clock", f"{history.running_s / _HOUR_S:.2f}"),
            ("Dropped", f"{history.dropped.total()}"),
            ("Quarantined", f"{history.quarantined.total()}"),
            ("Lost", f"{history.lost}"),
            ("Restarts", f"{history.restarts}"),
            ("Table resets", f"{history.sweeps}"),
            ("Interventions in 24 h", f"{history.interventions_per_day:.2g}"),
        ]
    return numbers


def failed(rows: Sequence[Row], history: JournalSummary) -> int:
    """Return the number of failed attempts; without a journal, those recorded in the episodes."""
    if not history.runs:
        return sum(row.attempt for row in rows)
    return history.dropped.total() + history.quarantined.total() + history.lost


def longest_gap_s(rows: Sequence[Row], events: Sequence[Mapping[str, Value]]) -> float:
    """Return the longest time between two closed episodes within a run."""
    marks = [(row.closed_s, "closed") for row in rows]
    marks += [(float(event["time_s"] or 0.0), str(event["event"])) for event in events]
    marks = sorted(mark for mark in marks if mark[1] in ("closed", "started", "ended"))
    return max((later - sooner for (sooner, _), (later, what) in pairwise(marks) if what != "started"), default=0.0)


def by_time(rows: Sequence[Row]) -> tuple[str, list[tuple[str, list[Row]]]]:
    """Return the name of an interval (minute, hour, days), and label and episodes of each interval.

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
    """Return Unix time as local time."""
    return datetime.fromtimestamp(time_s).astimezone().strftime(form)


def duration(seconds: float) -> str:
    """Return a duration in a suitable unit."""
    for limit_s, unit_s, unit in ((100, 1, "s"), (100 * _MINUTE_S, _MINUTE_S, "min"), (math.inf, _HOUR_S, "h")):
        if seconds < limit_s:
            return f"{seconds / unit_s:.1f} {unit}"
    raise ValueError(f"expected a duration, got {seconds}")


def size(n_bytes: int) -> str:
    """Return a number of bytes in a suitable unit."""
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MiB"
