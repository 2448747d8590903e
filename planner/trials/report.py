"""What a series of trials has come to: progress as it goes, tables, page and numbers at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import rich.table
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data_collection.atomic_io import write_file
from data_collection.reports import html
from data_collection.reports.images import enlarge, filmstrip, png_bytes
from planner.trials.statistics import MEASURES, TrialGroup, as_json, by_task, notes, paired_table, rates_table
from planner.trials.store import TrialsFolder
from planner.trials.trial import Trial
from planner.trials.variant import Variant, VariantName

_MOST = 12  # rows
_FRAMES = 8  # of what was seen, from the first to the last


def failures_image(folder: Path, trials: Sequence[Trial]) -> bytes:
    """Return a PNG with a row for each trial that was not done with the tool, the first twelve.

    Args:
        folder: Of all trials.
        trials: Of any task and variant; those that recorded no pictures are left out.

    Returns:
        The picture's bytes; empty where there is nothing to show.
    """
    failed = [trial for trial in trials if trial.status == "counted" and not trial.success]
    shown = [trial for trial in failed if (folder / trial.folder / "seen.gif").exists()][:_MOST]
    rows = {f"{t.task}, {t.variant}, {t.seed}": _row(folder / t.folder) for t in shown}
    return png_bytes(filmstrip(rows)) if rows else b""


def _row(run: Path) -> NDArray[np.uint8]:
    """Return the goal and the frames seen (9, H, W, 3), as large as the run's own GIF has them."""
    with Image.open(run / "goal.png") as file:
        goal = enlarge(np.asarray(file.convert("RGB"), np.uint8)[None])
    with Image.open(run / "seen.gif") as file:
        seen = [np.asarray(frame.convert("RGB"), np.uint8) for frame in ImageSequence.Iterator(file)]
    chosen = np.linspace(0, len(seen) - 1, _FRAMES).round().astype(int)
    return np.concatenate([goal, np.stack([seen[i] for i in chosen])])


class TrialsReport:
    """Every trial that is over, told on standard error. A context manager, for the bar of a terminal.

    Args:
        folder: Of the trials.
        tasks: Names of the tasks.
        variants: Who does them.
        seeds: Of their scenes.
        quiet: Tell nothing but what goes wrong.
    """

    def __init__(
        self, folder: TrialsFolder, tasks: Sequence[str], variants: Sequence[Variant], seeds: range, quiet: bool
    ) -> None:
        self.trials: list[Trial] = []
        self._folder, self._tasks, self._variants, self._seeds = folder, tasks, variants, seeds
        self._quiet = quiet
        self._console = Console(stderr=True)
        self._n_planned = len(tasks) * len(variants) * len(seeds)
        columns = (TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=self._console, disable=quiet or not self._console.is_terminal)
        self._bar = self._progress.add_task("trials", total=self._n_planned)
        self._began_s = time.monotonic()
        self._n_new = 0

    def __enter__(self) -> TrialsReport:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def resume(self, trials: Sequence[Trial]) -> None:
        """Take in the trials of an earlier start."""
        self.trials.extend(trials)
        self._progress.update(self._bar, completed=len(trials))
        if trials and not self._quiet:
            self.say(f"{len(trials)} of {self._n_planned} trials are over already")

    def add(self, trial: Trial) -> None:
        """Take in a trial that has just ended, and tell how it went."""
        self.trials.append(trial)
        self._n_new += 1
        self._progress.update(self._bar, completed=len(self.trials))
        if not self._quiet or trial.reason:
            self.say(f"{trial.task}, {trial.variant}, seed {trial.seed}: {_words(trial)}; {self._left()}")

    def say(self, line: str) -> None:
        """Print one line above the bar."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def write(self) -> None:
        """Write the pages, show the tables, and print the numbers as one JSON object."""
        groups = self._groups()
        page = self._folder.path / "trials.html"
        told = as_json(groups, str(page))
        variants = {variant.name: str(variant) for variant in self._variants}
        trials = [trial for group in groups for trial in group.trials]
        failed = failures_image(self._folder.path, trials)
        print(json.dumps(told, allow_nan=False), flush=True)
        record = {
            "variants": variants,
            "seeds": [self._seeds.start, self._seeds.stop],
            "tasks": told,
            "trials": [trial.model_dump() for trial in trials],
        }
        write_file(self._folder.path / "trials.json", json.dumps(record, indent=1, allow_nan=False))
        if failed:
            write_file(self._folder.path / "failed.png", failed)
        write_file(page, trials_page(self._folder.path, groups, variants, self._seeds, failed))
        if not self._quiet:
            self._show(groups)
            self.say(f"{page} shows the best and the worst of them")

    def _show(self, groups: Sequence[TrialGroup]) -> None:
        for head, *rows in (rates_table(groups), paired_table(groups)):
            if rows:
                table = rich.table.Table(*head)
                for row in rows:
                    table.add_row(*row)
                self._console.print(table)
        for variant in self._variants:
            self.say(f"{variant.name}: {variant}")
        for note in notes(groups, self._seeds):
            self.say(note)

    def _groups(self) -> list[TrialGroup]:
        """Return the trials of each task and variant, A before B."""
        ordered = sorted(self.trials, key=lambda trial: trial.seed)
        return [
            TrialGroup(
                task,
                variant.name,
                len(self._seeds),
                [t for t in ordered if (t.task, t.variant) == (task, variant.name)],
            )
            for task in self._tasks
            for variant in self._variants
        ]

    def _left(self) -> str:
        n_left = self._n_planned - len(self.trials)
        left_s = (time.monotonic() - self._began_s) / self._n_new * n_left
        return f"{len(self.trials)} of {self._n_planned}, about {_duration(left_s)} left"


def _words(trial: Trial) -> str:
    if trial.status != "counted":
        return f"{trial.status}: {trial.reason}"
    if trial.reason:
        return f"ended by a failure, which counts: {trial.reason}"
    best = next((words for name, words in MEASURES.items() if getattr(trial, name)), "nothing")
    return f"{best}, {trial.steps} actions"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


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
    folder: Path, groups: Sequence[TrialGroup], variants: Mapping[VariantName, str], seeds: range, failed: bytes
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
    return html.render("planner.trials", "trials.html.j2", view)


def _extremes(folder: Path, group: TrialGroup) -> list[_Extremes]:
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
