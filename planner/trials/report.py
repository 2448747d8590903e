"""Report of a series of trials: progress while it runs; tables, page and JSON at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import rich.table
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from rich.console import Console

from configs.command import print_result
from configs.progress import ProgressBar, duration, say_path
from data_collection.atomic_io import write_file
from data_collection.reports.images import enlarge, filmstrip, png_bytes
from planner.trials.page import achieved, trials_page
from planner.trials.statistics import (
    TrialGroup,
    as_json,
    measures,
    notes,
    paired_table,
    rates_table,
)
from planner.trials.store import TrialsFolder
from planner.trials.trial import Trial
from planner.trials.variant import Variant

_N_FAILURES = 12  # rows of the image of failed trials
_FRAME_PX, _FRAME = 4, (255, 170, 0)  # around the goal image; ours
_N_FRAMES = 8  # of a failed trial, from the first to the last


class TrialsReport:
    """Collects finished trials and shows the progress on standard error. A context manager, for the progress bar.

    Args:
        folder: Folder of the trials.
        tasks: Names of the tasks.
        variants: The variants.
        seeds: Seeds of the scenes.
        quiet: Show errors only.
    """

    def __init__(
        self, folder: TrialsFolder, tasks: Sequence[str], variants: Sequence[Variant], seeds: range, quiet: bool
    ) -> None:
        self.trials: list[Trial] = []
        self._folder, self._tasks, self._variants, self._seeds = folder, tasks, variants, seeds
        self._quiet = quiet
        self._n_planned = len(tasks) * len(variants) * len(seeds)
        self._progress = ProgressBar("trials", self._n_planned, quiet=quiet)
        self._started_s = time.monotonic()
        self._n_new = 0

    def __enter__(self) -> TrialsReport:
        self._progress.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.__exit__()

    def resume(self, trials: Sequence[Trial]) -> None:
        """Add the trials that an earlier start finished."""
        self.trials.extend(trials)
        self._progress.update(len(trials))
        if trials and not self._quiet:
            self.say(f"{len(trials)} of {self._n_planned} trials are already finished")

    def add(self, trial: Trial) -> None:
        """Add a trial that has just finished, and print its result."""
        self.trials.append(trial)
        self._n_new += 1
        self._progress.update(len(self.trials))
        if not self._quiet or trial.reason:
            self.say(f"{trial.task}, {trial.variant}, seed {trial.seed}: {_summary(trial)}; {self._remaining()}")

    def say(self, line: str) -> None:
        """Print one line above the progress bar."""
        self._progress.say(line)

    def write(self) -> None:
        """Close the progress bar, write the files, show the tables, and print the numbers as one JSON object."""
        self._progress.__exit__()
        groups = self._groups()
        page = self._folder.path / "trials.html"
        numbers = as_json(groups, str(page))
        try:
            self._write_files(groups, numbers, page)
            if not self._quiet:
                self._show(groups)
        finally:  # also where the disk is full
            if not self._quiet:
                say_path(f"{one_line(groups)}; report:", page)
            print_result(numbers)

    def _write_files(self, groups: Sequence[TrialGroup], numbers: Mapping[str, object], page: Path) -> None:
        variants = {variant.name: str(variant) for variant in self._variants}
        trials = [trial for group in groups for trial in group.trials]
        failed = failures_image(self._folder.path, trials)
        record = {
            "variants": variants,
            "seeds": [self._seeds.start, self._seeds.stop],
            "tasks": numbers,
            "trials": [trial.model_dump() for trial in trials],
        }
        write_file(self._folder.path / "trials.json", json.dumps(record, indent=1, allow_nan=False))
        if failed:
            write_file(self._folder.path / "failed.png", failed)
        write_file(page, trials_page(self._folder.path, groups, variants, self._seeds, failed))

    def _show(self, groups: Sequence[TrialGroup]) -> None:
        console = Console(stderr=True)
        for head, *rows in (rates_table(groups), paired_table(groups)):
            if rows:
                table = rich.table.Table(*head)
                for row in rows:
                    table.add_row(*row)
                console.print(table)
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

    def _remaining(self) -> str:
        n_left = self._n_planned - len(self.trials)
        left_s = (time.monotonic() - self._started_s) / self._n_new * n_left
        return f"{len(self.trials)} of {self._n_planned}, about {duration(left_s)} left"


def _summary(trial: Trial) -> str:
    if trial.status != "counted":
        return f"{trial.status}: {trial.reason}"
    if trial.reason:
        return f"ended by a failure, which is counted: {trial.reason}"
    return f"{achieved(trial)[0]}, {trial.steps} actions"


def one_line(groups: Sequence[TrialGroup]) -> str:
    """Return the success rates for a terminal."""
    (measure, label), *_ = measures(groups).items()
    parts = []
    for group in groups:
        found = group.success_rate(measure)
        variant = f", {group.variant}" if len({each.variant for each in groups}) > 1 else ""
        parts.append(f"{group.task}{variant}: {found.count} of {found.of} {label}")
    return "; ".join(parts)


def failures_image(folder: Path, trials: Sequence[Trial]) -> bytes:
    """Return a PNG with one row for each of the first twelve trials that were not done.

    Args:
        folder: Folder of all trials.
        trials: Trials of any task and variant; those without recorded images are left out.

    Returns:
        The bytes of the PNG; empty without such a trial.
    """
    failed = [trial for trial in trials if trial.status == "counted" and not trial.success]
    shown = [trial for trial in failed if (folder / trial.folder / "seen.gif").exists()][:_N_FAILURES]
    rows = {f"{t.task}, {t.variant}, {t.seed}": _failure_row(folder / t.folder) for t in shown}
    return png_bytes(filmstrip(rows)) if rows else b""


def _failure_row(run: Path) -> NDArray[np.uint8]:
    """Return the goal and the observed frames (9, H, W, 3) of one trial, at the size of its GIF."""
    with Image.open(run / "goal.png") as file:
        goal = enlarge(np.asarray(file.convert("RGB"), np.uint8)[None]).copy()
    for edge in (goal[:, :_FRAME_PX], goal[:, -_FRAME_PX:], goal[:, :, :_FRAME_PX], goal[:, :, -_FRAME_PX:]):
        edge[...] = _FRAME
    with Image.open(run / "seen.gif") as file:
        frames = [np.asarray(frame.convert("RGB"), np.uint8) for frame in ImageSequence.Iterator(file)]
    chosen = np.linspace(0, len(frames) - 1, _N_FRAMES).round().astype(int)
    return np.concatenate([goal, np.stack([frames[i] for i in chosen])])
