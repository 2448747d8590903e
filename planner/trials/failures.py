"""What became of trials that failed, as one picture: the goal, then what the camera saw until the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from data_collection.reports.images import enlarge, filmstrip, png_bytes
from planner.trials.trial import Trial

_MOST = 12  # rows
_FRAMES = 8  # of what was seen, from the first to the last


def failures_picture(folder: Path, trials: Sequence[Trial]) -> bytes:
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
