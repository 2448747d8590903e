"""The page of a series of trials: the tables, the best and the worst, and the way to each trial's own page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from data_collection.reports import html
from planner.trials.statistics import MEASURES, Group, by_task, notes, paired_table, rates_table
from planner.trials.trial import Trial
from planner.trials.variant import VariantName

_SHOWN = 3  # best, and as many worst, of each group
_PICTURES = ("start", "goal", "end")


class _Shown(NamedTuple):
    """A trial with its pictures."""

    label: str
    words: str
    link: str
    pictures: dict[str, str]  # caption to data URI; without those that were not recorded


class _Extremes(NamedTuple):
    """What is shown of one group."""

    title: str
    trials: list[_Shown]


def trials_page(
    folder: Path, groups: Sequence[Group], variants: Mapping[VariantName, str], seeds: range, failed: bytes
) -> str:
    """Return the page of all trials in a folder; it holds everything that it shows but the runs' own pages.

    Args:
        folder: Of all trials.
        groups: The trials.
        variants: What each variant is, in words.
        seeds: Of all scenes.
        failed: PNG of what failed; empty for none.
    """
    view = {
        "tasks": list(by_task(groups)),
        "variants": variants,
        "seeds": f"{seeds.start} to {seeds.stop - 1}",
        "rates": rates_table(groups),
        "paired": paired_table(groups),
        "notes": notes(groups, seeds),
        "extremes": [extremes for group in groups for extremes in _extremes(folder, group)],
        "failed": html.data_uri("png", failed) if failed else "",
        "measures": MEASURES,
        "trials": [(trial, _link(folder, trial)) for group in groups for trial in group.trials],
    }
    return html.render("planner", "trials.html.j2", view)


def _extremes(folder: Path, group: Group) -> list[_Extremes]:
    ranked = group.ranked()
    n_best = min(_SHOWN, (len(ranked) + 1) // 2)
    n_worst = min(_SHOWN, len(ranked) - n_best)
    name = f"{group.task}, {group.variant}"
    parts = [("best", ranked[:n_best]), ("worst", ranked[::-1][:n_worst])]
    return [_Extremes(f"{name}: the {word}", [_shown(folder, t) for t in trials]) for word, trials in parts if trials]


def _shown(folder: Path, trial: Trial) -> _Shown:
    achieved = [words for name, words in MEASURES.items() if getattr(trial, name)]
    away = "" if not trial.away_m else f", the worst object {100 * trial.away_m:.1f} cm away"
    files = {name: folder / trial.folder / f"{name}.png" for name in _PICTURES}
    return _Shown(
        label=f"seed {trial.seed}",
        words=trial.reason or f"{'; '.join(achieved) or 'nothing'} in {trial.steps} actions{away}",
        link=_link(folder, trial),
        pictures={name: html.data_uri("png", file.read_bytes()) for name, file in files.items() if file.exists()},
    )


def _link(folder: Path, trial: Trial) -> str:
    """Return where the page of a trial's run is, seen from the folder of all; empty if it left none."""
    name = f"{trial.folder}/report.html"
    return quote(name) if (folder / name).exists() else ""
