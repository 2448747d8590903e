"""HTML report of a collection: statistics, progress, motion, and example episodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from data_collection.episode import EpisodeError
from data_collection.policies.families import MEANINGS
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
from data_collection.storage.folder import CONFIG_NAME
from data_collection.storage.index import Row
from data_collection.storage.journal import JournalSummary, Value

GENERATOR = "ghvae-foresight run_data page"  # in the head of the page
_HEAD_BYTES = 1000  # of the page, with its generator
_MOST_READ = 500  # episodes whose steps are read, at 20 to 50 ms each; ours
_TAIL = 2.0  # percentage of the largest values that the last bar of a histogram with a long tail holds; ours
_REASONS = {  # of quarantine: what is wrong with such an episode
    "wrong_count": "it has too few or too many steps",
    "clock_jump": "the system clock jumped",
    "wrong_stamps": "a step was too short or too long",
    "wrong_actions": "an applied action is beyond the limits",
    "out_of_bounds": "the hand left the workspace",
    "bad_light": "the images are too dark or too bright",
    "frozen_camera": "the images stayed the same while the hand moved",
    "idle_arm": "the hand hardly moved",
    "off_command": "the hand was often far from its target: something held it up",
    "not_finite": "a measurement is not a number",
}
_CELL_M = 0.02  # side of a cell of the map; ours


def collection_report(folder: Path, n_shown: int, seed: int) -> str:
    """Return the self-contained page of all episodes in a folder.

    The index and the journal are read completely; steps are read of at most 500 randomly drawn episodes.

    Args:
        folder: Of one collection; a run may be active.
        n_shown: Number of randomly drawn episodes to show.
        seed: Of the random choice; the same folder and seed give the same page.

    Raises:
        EpisodeError: The folder has no episodes or cannot be read.
    """
    rng = np.random.default_rng(seed)
    try:
        rows = index.read(folder)
        events = journal.read(folder)
        if not rows:
            raise EpisodeError(f"{folder}: expected episodes, got none; collect some first")
        history = journal.summarize(events)
        shown = contact_sheet.sample_episodes(folder, rows, n_shown, rng)
        steps = read_step_statistics(folder, rows, _MOST_READ, rng)
        aside = contact_sheet.quarantined_episodes(folder, _reasons(events))
    except OSError as error:
        raise EpisodeError(f"{folder}: expected a readable folder, got: {error.strerror or error}") from None
    view = {
        "generator": GENERATOR,
        "name": folder.resolve().name,
        "robot": _robot(folder),
        "has_journal": bool(history.runs),
        "span": f"{moment(min(row.closed_s for row in rows))} to {moment(max(row.closed_s for row in rows))}",
        "numbers": summary_numbers(rows, events, history),
        "findings": _findings(rows, steps, history),
        "unread": steps.unread,
        "failures": _failures(history, aside),
        "progress": _progress(rows),
        "objects": _objects(rows),
        "families": _families(rows),
        "motion": _motion(steps),
        "steps": f"{html.count(len(steps.table), 'step')} of {html.count(steps.n_episodes, 'episode')}",
        "is_part": steps.n_episodes + len(steps.unread) < len(rows),
        "shown": shown,
        "seed": seed,
        "aside": aside,
    }
    return html.render("data_collection.reports", "collection.html.j2", view)


def _robot(folder: Path) -> str:
    """Return which robot a collection was recorded from, in words; empty where the folder does not say."""
    file = folder / CONFIG_NAME
    stored = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else None
    kind = stored.get("robot", {}).get("kind", "") if isinstance(stored, dict) else ""
    return "a simulated arm (MuJoCo)" if kind == "simulation" else kind


def is_collection_report(path: Path) -> bool:
    """Return whether a file is a page of `collection_report`."""
    try:
        with path.open("rb") as file:
            return GENERATOR.encode() in file.read(_HEAD_BYTES)
    except OSError:
        return False


def _reasons(events: Sequence[dict[str, Value]]) -> dict[str, str]:
    """Return the reason of each file in quarantine."""
    return {str(event.get("file")): str(event.get("reason")) for event in events if event["event"] == "quarantined"}


def _findings(rows: Sequence[Row], steps: StepStatistics, history: JournalSummary) -> list[str]:
    """Return the main results as sentences."""
    moved, lifted = (_percent(flags) for flags in ([_moved(row) for row in rows], [row.lifted for row in rows]))
    n_failed = failed(rows, history)
    findings = [
        f"An object moved by {100 * MOVED_M:g} cm or more in {moved:.0f} % of the episodes and was lifted in"
        f" {lifted:.0f} %.",
        f"{n_failed} of {len(rows) + n_failed} attempts failed.",
    ]
    if len(steps.table):
        off_mm = 1000 * _length(steps.measured_m - steps.moves_m)
        limited = _length(steps.commanded_m - steps.moves_m) > 1e-4
        findings += [
            f"Distance between a step's end and the target of its applied action: median {np.median(off_mm):.1f} mm,"
            f" 95th percentile {np.percentile(off_mm, 95):.1f} mm.",
            f"The safety limits changed {_percent(limited):.0f} % of the commands; the gripper was commanded closed in"
            f" {_percent(steps.closes):.0f} % of the steps.",
        ]
    return findings


def _failures(history: JournalSummary, aside: Sequence[QuarantineGroup]) -> list[tuple[str, str, int, int, int]]:
    """Return reason, its meaning, aborted attempts, attempts moved to quarantine, and files in quarantine."""
    kept = {part.reason: part.n for part in aside}
    names = Counter[str]() + history.dropped + history.quarantined
    order = [name for name, _ in names.most_common()] + [name for name in kept if name not in names]
    table = [
        (name, _REASONS.get(name, ""), history.dropped[name], history.quarantined[name], kept.get(name, 0))
        for name in order
    ]
    return table + ([("lost", "the process died or hung", history.lost, 0, 0)] if history.lost else [])


def _progress(rows: Sequence[Row]) -> list[chart.TitledChart]:
    name, stretches = by_time(rows)
    counts = [(label, float(len(closed))) for label, closed in stretches]
    filled = [(float(i), closed) for i, (_, closed) in enumerate(stretches) if closed]
    shares = {
        "object moved": [(i, _percent([_moved(row) for row in closed])) for i, closed in filled],
        "object lifted": [(i, _percent([row.lifted for row in closed])) for i, closed in filled],
    }
    return [
        chart.TitledChart(
            f"Episodes per {name}",
            chart.columns(counts, "local time", "episodes"),
            f"{len(rows) / len(counts):.1f} on average, maximum {max(count for _, count in counts):.0f}.",
        ),
        chart.TitledChart(
            "Episodes with object motion",
            chart.lines(shares, f"one point per {name}", "% of the episodes"),
            f"An object moved: by {100 * MOVED_M:g} cm or more in the image. Lifted: held above the table. A point of"
            f" few episodes says little; the last one is of {html.count(len(stretches[-1][1]), 'episode')}.",
        ),
    ]


def _moved(row: Row) -> bool:
    return row.objects_moved_m >= MOVED_M


def _objects(rows: Sequence[Row]) -> list[chart.TitledChart]:
    moved_cm = np.array([100 * row.objects_moved_m for row in rows])
    seen = Counter(row.objects_seen for row in rows)
    families = Counter(name for row in rows for name in row.families.split(",") if name)
    sequences = [(name, {"sequences": 100 * n / families.total()}) for name, n in families.most_common()]
    shares = [
        (f"{100 * MOVED_M:g} cm", {"episodes": _percent([_moved(row) for row in rows])}),
        ("10 cm", {"episodes": _percent([row.objects_moved_m >= 0.1 for row in rows])}),
        ("lifted", {"episodes": _percent([row.lifted for row in rows])}),
    ]
    counts = [(f"{n}", float(seen[n])) for n in range(max(seen) + 1)]
    return [
        chart.TitledChart(
            "Episodes by object motion",
            chart.bars(shares, "%"),
            "Fraction of the episodes in which an object moved at least so far in the image, or was lifted.",
        ),
        chart.TitledChart(
            "Largest object motion per episode",
            chart.histogram(
                {"objects": moved_cm}, chart.round_edges(moved_cm), "cm, measured in the image", "the episodes"
            ),
            f"Median {np.median(moved_cm):.1f} cm.",
        ),
        chart.TitledChart(
            "Objects detected in the first frame",
            chart.columns(counts, "number of objects", "episodes"),
            "By colour, within reach of the hand.",
        ),
        chart.TitledChart(
            "Action sequences by kind",
            chart.bars(sequences, "%"),
            f"{html.count(families.total(), 'sequence')}: an episode has one or more. The kinds are"
            " explained in the table below.",
        ),
    ]


def _families(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return each family of action sequences that occurs, and what it does."""
    names = sorted({name for row in rows for name in row.families.split(",") if name})
    return [(name, MEANINGS.get(name, name)) for name in names]


def _motion(steps: StepStatistics) -> list[chart.TitledChart]:
    if not len(steps.table):
        return []
    moves_cm, lasted_s = 100 * steps.moves_m, steps.lasted_s
    length_cm = _length(moves_cm)
    off_mm = 1000 * _length(steps.measured_m - steps.moves_m)
    commanded_mm = 1000 * _length(steps.measured_m - steps.commanded_m)
    heights_cm = 100 * steps.hands_m[:, 2]
    return [
        *_applied(moves_cm),
        _long_tailed("Length of the applied step", {"steps": length_cm}, "cm"),
        _long_tailed(
            "Distance from the target", {"of the applied action": off_mm, "of the commanded action": commanded_mm}, "mm"
        ),
        _long_tailed("Duration of a step", {"steps": lasted_s}, "s"),
        chart.TitledChart(
            "Gripper",
            chart.histogram(
                {"opening": steps.openings},
                [i / 20 for i in range(21)],
                "opening after the step (1: open)",
                "the steps",
            ),
            f"Commanded closed in {_percent(steps.closes):.0f} % of the steps.",
        ),
        chart.TitledChart(
            "Height of the hand",
            chart.histogram({"steps": heights_cm}, chart.round_edges(heights_cm), "cm above the base", "the steps"),
            f"Median {np.median(heights_cm):.1f} cm.",
        ),
        _map(steps),
    ]


def _applied(moves_cm: NDArray[np.float32]) -> list[chart.TitledChart]:
    """Return one histogram for each axis of the applied actions, with one scale."""
    edges = _around_zero(chart.round_edges(moves_cm))
    directions = {"dx": "away from the base", "dy": "to the left, seen from the base", "dz": "up"}
    return [
        chart.TitledChart(
            f"Applied {name}",
            chart.histogram({name: moves_cm[:, i]}, edges, "cm a step", "the steps"),
            f"Positive: {direction}. Standard deviation {moves_cm[:, i].std():.1f} cm.",
        )
        for i, (name, direction) in enumerate(directions.items())
    ]


def _around_zero(edges: list[float]) -> list[float]:
    """Return edges shifted by half an interval, so that zero is in the middle of one."""
    half = (edges[1] - edges[0]) / 2
    return [*(edge - half for edge in edges), edges[-1] + half]


def _long_tailed(title: str, series: dict[str, NDArray[np.float32]], unit: str) -> chart.TitledChart:
    """Return a histogram whose last bar holds the largest values."""
    bounds = [np.percentile(values, 100 - _TAIL) for values in series.values()]
    edges = chart.round_edges(np.array([*(values.min() for values in series.values()), *bounds]))
    words = [
        f"{name}median {np.median(values):.3g} {unit}, maximum {values.max():.3g}"
        for name, values in ((f"{name}: " if len(series) > 1 else "", values) for name, values in series.items())
    ]
    text = "; ".join(words)
    return chart.TitledChart(
        title,
        chart.histogram(series, edges, unit, "the steps"),
        f"{text[0].upper()}{text[1:]}. The last bar includes all larger values.",
    )


def _map(steps: StepStatistics) -> chart.TitledChart:
    """Return the map of hand positions from above: the base is below, the left of the arm is on the left."""
    places = steps.hands_m[:, :2]
    edges = [np.arange(np.floor(low / _CELL_M), np.ceil(high / _CELL_M) + 1) * _CELL_M for low, high in _ranges(places)]
    counts = np.histogram2d(places[:, 0], places[:, 1], edges)[0]
    svg = chart.heat_map(counts.T[::-1], list(100 * edges[1][::-1]), list(100 * edges[0]), "cm: y to the left, x up")
    most = html.count(int(counts.max()), "step")
    note = (
        f"From above; the base of the arm is below. White: no step; darkest: {most} in a"
        f" square of {100 * _CELL_M:g} cm; in between by the square root."
    )
    return chart.TitledChart("Hand positions", svg, note)


def _ranges(places: NDArray[np.float32]) -> list[tuple[float, float]]:
    """Return the low and high bound of each column, which differ."""
    return [(float(low), float(high) + 1e-3) for low, high in zip(places.min(0), places.max(0), strict=True)]


def _length(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths: NDArray[np.float32] = np.linalg.norm(vectors, axis=1)
    return lengths


def _percent(flags: Sequence[bool] | NDArray[np.bool_]) -> float:
    """Return the percentage of true values."""
    return 100 * float(np.mean(flags))
