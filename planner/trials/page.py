"""HTML page of a series of trials: rates, and each trial with its images, failures first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import yaml
from PIL import Image

from data_collection.reports import html
from data_collection.reports.images import jpeg_bytes, resize
from planner.record import BY_PERSON, GOAL_SEEN, SETTLED, STEPS_USED, SUCCESS
from planner.task_words import task_words
from planner.trials.statistics import (
    MEASURES,
    TrialGroup,
    by_task,
    judged_by,
    measures,
    notes,
    paired_table,
    rates_table,
)
from planner.trials.trial import Trial
from planner.trials.variant import VariantName
from robot_bridge.camera import Crop

_THUMBNAIL_PX = 192  # width; ours
_ENDS = {  # of a trial: words in the table
    SUCCESS: "done",
    STEPS_USED: "all actions used",
    SETTLED: "acting hardly better than holding still",
    GOAL_SEEN: "image matched the goal",
}
_IMAGES = {"start": "the scene at the start", "end": "the scene at the end", "goal": "the goal image"}


class _TrialView(NamedTuple):
    """One trial on the page."""

    label: str
    headline: str
    style: str  # class of the badge
    summary: str
    link: str
    images: list[tuple[str, str, str]]  # caption, text for screen readers, data URI


def trials_page(
    folder: Path, groups: Sequence[TrialGroup], variants: Mapping[VariantName, str], seeds: range, failed: bytes
) -> str:
    """Return the HTML page of all trials in a folder. It embeds its images and links to the reports of the runs.

    Args:
        folder: Folder of all trials.
        groups: The trials.
        variants: Description of each variant.
        seeds: Seeds of all scenes.
        failed: PNG of the failed trials; empty without one.
    """
    trials = [trial for group in groups for trial in group.trials]
    view = {
        "tasks": list(by_task(groups)),
        "words": [task_words(task) for task in by_task(groups)],
        "variants": variants,
        "by_person": judged_by(groups) == BY_PERSON,
        "seeds": f"{seeds.start} to {seeds.stop - 1}",
        "rates": rates_table(groups),
        "paired": paired_table(groups),
        "notes": notes(groups, seeds),
        "shown": [_trial_view(folder, trial) for trial in sorted(trials, key=_failures_first)],
        "failed": html.data_uri("png", failed) if failed else "",
        "measures": measures(groups),
        "trials": [(trial, _link(folder, trial), _ended(trial)) for trial in trials],
    }
    return html.render("planner", "trials/trials.html.j2", view)


def _failures_first(trial: Trial) -> int:
    """Return the place of a trial: failures, then those that are not counted, then successes."""
    return 1 if trial.status != "counted" else 2 if trial.success else 0


def _trial_view(folder: Path, trial: Trial) -> _TrialView:
    away = "" if not trial.away_m else f"; largest distance of an object {100 * trial.away_m:.1f} cm"
    headline, style = _verdict(trial)
    return _TrialView(
        label=f"{trial.task}, {trial.variant}, seed {trial.seed}",
        headline=headline,
        style=style,
        summary=trial.reason or f"{'; '.join(achieved(trial))} in {trial.steps} actions{away}",
        link=_link(folder, trial),
        images=_thumbnails(folder / trial.folder),
    )


def _verdict(trial: Trial) -> tuple[str, str]:
    """Return the verdict on a trial, and the class of its badge."""
    if trial.status != "counted":
        return f"{trial.status.capitalize()}, not counted", "fair"
    if trial.success:
        return "Success", "good"
    return ("Stopped by a failure", "bad") if trial.reason else ("Not done", "bad")


def _ended(trial: Trial) -> str:
    """Return what ended a trial, in words."""
    return trial.status if trial.status != "counted" else _ENDS.get(trial.ended, trial.ended) or trial.reason


def _thumbnails(run: Path) -> list[tuple[str, str, str]]:
    """Return caption, text and data URI of the recorded images of a trial, all of what the model sees."""
    found = {name: run / f"{name}.png" for name in _IMAGES if (run / f"{name}.png").exists()}
    if set(found) != set(_IMAGES):
        return []
    crop = _crop(run)
    thumbnails, height_px = [], _THUMBNAIL_PX
    for name, text in _IMAGES.items():
        with Image.open(found[name]) as file:
            image = np.asarray(file.convert("RGB"), np.uint8)
        if name != "goal":  # a camera image; the goal has its own resolution, and the proportions of the start
            image = image if crop is None else image[crop.rows(), crop.columns()]
            height_px = round(_THUMBNAIL_PX * image.shape[0] / image.shape[1])
        small = resize(image[None], _THUMBNAIL_PX, height_px)[0]
        thumbnails.append((name, text, html.data_uri("jpeg", jpeg_bytes(small))))
    return thumbnails


def _crop(run: Path) -> Crop | None:
    """Return the part of a run's camera images that the model sees; None for all of it."""
    file = run / "config.yaml"
    config = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else None
    crop = config["robot"]["camera"].get("crop") if config else None
    return None if crop is None else Crop.model_validate(crop)


def _link(folder: Path, trial: Trial) -> str:
    """Return the address of a trial's report, relative to the folder of all trials; empty without a report."""
    name = f"{trial.folder}/report.html"
    return quote(name) if (folder / name).exists() else ""


def achieved(trial: Trial) -> list[str]:
    """Return the measures that a counted trial achieved, in words, at least one."""
    if trial.judged_by == BY_PERSON:
        return ["done" if trial.success else "not done"]
    return [label for name, label in MEASURES.items() if getattr(trial, name)] or ["nothing achieved"]
