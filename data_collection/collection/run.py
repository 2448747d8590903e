"""One run of a collection: connects the parts and runs until the target is reached."""

from __future__ import annotations

import math
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from configs.progress import announce
from data_collection.collection.config import CollectionRunConfig
from data_collection.collection.events import EventListener
from data_collection.collection.notifications import EventLog
from data_collection.collection.progress import CollectionProgress, ProgressDisplay
from data_collection.collection.supervisor import EpisodeNumbers, Supervisor
from data_collection.storage.folder import EpisodeFolder
from data_collection.storage.index import Row


class Target(NamedTuple):
    """Target content of the folder: episodes or hours."""

    episodes: int | None
    hours: float | None  # recorded


def collect(config: CollectionRunConfig, target: Target, out: Path, n_workers: int, resume: bool) -> None:
    """Collect until the target is reached; progress on stderr, a summary on stdout, files in the folder.

    Raises:
        EpisodeError: The folder cannot be used. Nothing was changed.
        CollectionError: No robot, or an operator is required. All closed episodes are kept.
    """
    EpisodeFolder(out, "").check(resume)
    with ExitStack() as stack:
        with announce("starting the robot"):
            supervisor = stack.enter_context(Supervisor(config, out, n_workers))  # without a robot nothing is written
        folder = EpisodeFolder(out, config.stem(supervisor.robot))
        lock = stack.enter_context(folder.lock(exclusive=True))
        folder.check(resume)  # again, now that no other run can write
        folder.store_config(config)
        with announce("checking the episodes of the folder"):
            rows = folder.clean_up()
        folder.share(lock)
        progress = _initial_progress(rows, target, config)
        display = stack.enter_context(ProgressDisplay(out, progress))
        log = stack.enter_context(EventLog(folder, progress, config))
        listeners: tuple[EventListener, ...] = (progress, log, display)  # the first counts, the others read the counts
        numbers = EpisodeNumbers({row.number for row in rows}, progress.n_target - progress.n_present)
        for event in stack.enter_context(closing(supervisor.run(numbers))):
            for listener in listeners:
                listener.handle(event)
            if progress.is_done():
                break


def _initial_progress(rows: list[Row], target: Target, config: CollectionRunConfig) -> CollectionProgress:
    """Return the progress at the start. A target in hours allows the episodes of steps of minimal duration."""
    n, present_s = len(rows), sum(row.recorded_s for row in rows)
    if target.hours is None:
        return CollectionProgress(n, present_s, max(n, target.episodes or 0), None)
    target_s = target.hours * 3600
    more = math.ceil((target_s - present_s) / (config.collection.n_steps * config.robot.step_s) - 1e-6)
    return CollectionProgress(n, present_s, n + max(0, more), target_s)
