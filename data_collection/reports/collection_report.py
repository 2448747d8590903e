"""The page of a collection: what it holds, how it came about, how the arm moved, and episodes to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_collection.episode import EpisodeError
from data_collection.policies.object_detection import MOVED_M
from data_collection.reports import chart, contact_sheet, html
from data_collection.reports.contact_sheet import QuarantineGroup
from data_collection.reports.statistics import (
    StepStatistics,
    by_time,
    failed,
    moment,
    read_step_statistics,
    summary_numbers,
)
from data_collection.storage import index, journal
from data_collection.storage.index import Row
from data_collection.storage.journal import JournalSummary, Value

_MOST_READ = 500  # episodes whose numbers are read, at 20 to 50 ms: enough for every distribution; ours
_TAIL = 2.0  # per cent of the largest values, which share the last bar of a distribution with a long tail
_CELL_M = 0.02  # side of a square of the map


class _Drawing(NamedTuple):
    """One chart on the page."""

    title: str
    svg: str
    words: str


def collection_report(folder: Path, n_shown: int, seed: int) -> str:
    """Return the page of all episodes in a folder; it holds everything that it shows.

    The index and the journal are read whole; steps of at most 500 episodes, which chance draws where there are more.

    Args:
        folder: Of one collection; it may be one that goes on.
        n_shown: How many episodes are shown, drawn by chance.
        seed: Of all chance; the same folder and seed give the same page.

    Raises:
        EpisodeError: Not a folder of closed episodes, or one that cannot be read.
    """
    rng = np.random.default_rng(seed)
    try:
        rows = index.read(folder)
        events = journal.read(folder)
        if not rows:
            raise EpisodeError(f"{folder}: expected closed episodes, got none; collect some first")
        history = journal.summarize(events)
        shown = contact_sheet.sample_episodes(folder, rows, n_shown, rng)
        census = read_step_statistics(folder, rows, _MOST_READ, rng)
        aside = contact_sheet.quarantined_episodes(folder, _reasons(events))
    except OSError as error:
        raise EpisodeError(f"{folder}: expected a folder that can be read, got: {error.strerror or error}") from None
    view = {
        "name": folder.resolve().name,
        "span": f"{moment(min(row.closed_s for row in rows))} to {moment(max(row.closed_s for row in rows))}",
        "numbers": summary_numbers(rows, events, history),
        "findings": _findings(rows, census, history),
        "unread": census.unread,
        "failures": _failures(history, aside),
        "progress": _progress(rows),
        "play": _play(rows),
        "motion": _motion(census),
        "census": f"{len(census.table)} steps of {census.n_episodes} episodes",
        "is_part": census.n_episodes + len(census.unread) < len(rows),
        "shown": shown,
        "seed": seed,
        "aside": aside,
    }
    return html.render("data_collection.reports", "collection.html.j2", view)


def _reasons(events: Sequence[dict[str, Value]]) -> dict[str, str]:
    """Return why each file was set aside."""
    return {str(event.get("file")): str(event.get("reason")) for event in events if event["event"] == "quarantined"}


def _findings(rows: Sequence[Row], census: StepStatistics, history: JournalSummary) -> list[str]:
    """Return what a person wants to know first."""
    moved, lifted = (_share(flags) for flags in ([_moved(row) for row in rows], [row.lifted for row in rows]))
    n_failed = failed(rows, history)
    findings = [
        f"An object was seen to go {100 * MOVED_M:g} cm or more in {moved:.0f} % of the episodes; something was held in"
        f" the air in {lifted:.0f} %.",
        f"{n_failed} of {len(rows) + n_failed} attempts gave no episode.",
    ]
    if len(census.table):
        off_mm = 1000 * _length(census.measured_m - census.moves_m)
        limited = _length(census.commanded_m - census.moves_m) > 1e-4
        findings += [
            f"A step ends {np.median(off_mm):.1f} mm from where its applied action leads in the median, and within"
            f" {np.percentile(off_mm, 95):.1f} mm in 95 %.",
            f"The safety limits changed {_share(limited):.0f} % of the commands; the gripper was told to be closed in"
            f" {_share(census.closes):.0f} % of the steps.",
        ]
    return findings


def _failures(history: JournalSummary, aside: Sequence[QuarantineGroup]) -> list[tuple[str, int, int, int]]:
    """Return reason, attempts that were broken off, episodes that were set aside, and files that lie in quarantine."""
    kept = {part.reason: part.n for part in aside}
    names = Counter[str]() + history.dropped + history.quarantined
    order = [name for name, _ in names.most_common()] + [name for name in kept if name not in names]
    table = [(name, history.dropped[name], history.quarantined[name], kept.get(name, 0)) for name in order]
    return table + ([("a process died or hung", history.lost, 0, 0)] if history.lost else [])


def _progress(rows: Sequence[Row]) -> list[_Drawing]:
    name, stretches = by_time(rows)
    counts = [(label, float(len(closed))) for label, closed in stretches]
    filled = [(float(i), closed) for i, (_, closed) in enumerate(stretches) if closed]
    shares = {
        "an object moved": [(i, _share([_moved(row) for row in closed])) for i, closed in filled],
        "something was lifted": [(i, _share([row.lifted for row in closed])) for i, closed in filled],
    }
    return [
        _Drawing(
            f"Episodes closed in each {name}",
            chart.columns(counts, "by this machine's clock"),
            f"{len(rows) / len(counts):.1f} on average, {max(count for _, count in counts):.0f} at most.",
        ),
        _Drawing(
            "Episodes in which something happened, in per cent",
            chart.lines(shares, f"in order, one point for each {name}"),
            "",
        ),
    ]


def _moved(row: Row) -> bool:
    return row.objects_moved_m >= MOVED_M


def _play(rows: Sequence[Row]) -> list[_Drawing]:
    moved_cm = np.array([100 * row.objects_moved_m for row in rows])
    seen = Counter(row.objects_seen for row in rows)
    families = Counter(name for row in rows for name in row.families.split(",") if name)
    sequences = [(name, {"sequences": 100 * n / families.total()}) for name, n in families.most_common()]
    shares = [
        (f"{100 * MOVED_M:g} cm", {"episodes": _share([_moved(row) for row in rows])}),
        ("10 cm", {"episodes": _share([row.objects_moved_m >= 0.1 for row in rows])}),
        ("lifted", {"episodes": _share([row.lifted for row in rows])}),
    ]
    counts = [(f"{n}", float(seen[n])) for n in range(max(seen) + 1)]
    return [
        _Drawing("Episodes in which an object moved so far, or was lifted", chart.bars(shares, "%"), ""),
        _Drawing(
            "How far the object that moved most went",
            chart.histogram({"objects": moved_cm}, chart.round_edges(moved_cm), "cm, as the camera saw it"),
            f"Median {np.median(moved_cm):.1f} cm.",
        ),
        _Drawing("Objects seen at the beginning", chart.columns(counts, "objects; height: episodes"), ""),
        _Drawing("Families of the sequences", chart.bars(sequences, "%"), f"{families.total()} sequences."),
    ]


def _motion(census: StepStatistics) -> list[_Drawing]:
    if not len(census.table):
        return []
    moves_cm, lasted_s = 100 * census.moves_m, census.lasted_s
    length_cm = _length(moves_cm)
    off_mm = 1000 * _length(census.measured_m - census.moves_m)
    asked_mm = 1000 * _length(census.measured_m - census.commanded_m)
    axes = {name: moves_cm[:, i] for i, name in enumerate(("dx", "dy", "dz"))}
    heights_cm = 100 * census.hands_m[:, 2]
    return [
        _Drawing(
            "Applied actions",
            chart.histogram(axes, _around_zero(chart.round_edges(moves_cm)), "cm a step"),
            "Deviation " + ", ".join(f"{name} {values.std():.1f} cm" for name, values in axes.items()) + ".",
        ),
        _long_tailed("Length of the applied step", {"steps": length_cm}, "cm"),
        _long_tailed("Off the target", {"from the applied": off_mm, "from the commanded": asked_mm}, "mm"),
        _long_tailed("Duration of a step", {"steps": lasted_s}, "s"),
        _Drawing(
            "Gripper",
            chart.histogram({"opening": census.openings}, [i / 20 for i in range(21)], "opening after the step"),
            f"Told to be closed in {_share(census.closes):.0f} % of the steps.",
        ),
        _Drawing(
            "Height of the hand",
            chart.histogram({"steps": heights_cm}, chart.round_edges(heights_cm), "cm above the base"),
            f"Median {np.median(heights_cm):.1f} cm.",
        ),
        _map(census),
    ]


def _around_zero(edges: list[float]) -> list[float]:
    """Return edges of intervals of the same width, one of which has zero in its middle where another ended there."""
    half = (edges[1] - edges[0]) / 2
    return [*(edge - half for edge in edges), edges[-1] + half]


def _long_tailed(title: str, series: dict[str, NDArray[np.float32]], unit: str) -> _Drawing:
    """Return a distribution whose largest values do not squeeze the others."""
    bounds = [np.percentile(values, 100 - _TAIL) for values in series.values()]
    edges = chart.round_edges(np.array([*(values.min() for values in series.values()), *bounds]))
    words = [
        f"{name}: median {np.median(values):.3g} {unit}, at most {values.max():.3g}" for name, values in series.items()
    ]
    return _Drawing(title, chart.histogram(series, edges, unit), f"{'; '.join(words)}; the last bar holds all beyond.")


def _map(census: StepStatistics) -> _Drawing:
    """Return where the hand was, as the arm sees it: what is to its left is on the left, its base below."""
    places = census.hands_m[:, :2]
    edges = [np.arange(np.floor(low / _CELL_M), np.ceil(high / _CELL_M) + 1) * _CELL_M for low, high in _ranges(places)]
    counts = np.histogram2d(places[:, 0], places[:, 1], edges)[0]
    svg = chart.heat_map(counts.T[::-1], list(100 * edges[1][::-1]), list(100 * edges[0]), "cm: y to the left, x up")
    return _Drawing("Where the hand was", svg, "Seen from above, the arm's base below.")


def _ranges(places: NDArray[np.float32]) -> list[tuple[float, float]]:
    """Return the low and high bound of each column, never the same."""
    return [(float(low), float(high) + 1e-3) for low, high in zip(places.min(0), places.max(0), strict=True)]


def _length(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths: NDArray[np.float32] = np.linalg.norm(vectors, axis=1)
    return lengths


def _share(flags: Sequence[bool] | NDArray[np.bool_]) -> float:
    """Return the share of those that hold, in per cent."""
    return 100 * float(np.mean(flags))
