"""The image of failed trials: which trials it shows, and which of their frames."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_collection.reports.images import gif_bytes, png_bytes
from planner.trials.report import failures_image
from planner.trials.trial import Trial

N_FRAMES = 15


def trial(root: Path, seed: int, *, seen: bool = True, **values: bool | str) -> Trial:
    """Return a trial with a red goal, and frames that get brighter by 10 levels each."""
    reported = {"task": "pick_wipe", "variant": "A", "status": "counted", "reason": "", **values}
    one = Trial.model_validate({**reported, "seed": seed, "folder": f"pick_wipe/A/seed{seed:04d}"})
    if seen:
        run = root / one.folder
        run.mkdir(parents=True)
        frames = (
            np.zeros((N_FRAMES, 64, 64, 3), np.uint8) + (10 * np.arange(N_FRAMES, dtype=np.uint8))[:, None, None, None]
        )
        (run / "seen.gif").write_bytes(gif_bytes(frames, 0.2))
        (run / "goal.png").write_bytes(png_bytes(np.full((64, 64, 3), (255, 0, 0), np.uint8)))
    return one


def read(image: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(image)) as file:
        return np.asarray(file)


def test_a_failed_trial_is_a_row_from_its_goal_to_its_last_frame(tmp_path: Path) -> None:
    image = read(failures_image(tmp_path, [trial(tmp_path, 3)]))
    middles = image[64, -9 * 130 + 64 :: 130]
    assert len(middles) == 9 and tuple(middles[0]) == (255, 0, 0)
    seen = middles[1:, 0].astype(int)
    assert seen[0] < 10 and seen[-1] > 130 and (np.diff(seen) >= 10).all()


def test_only_failed_trials_with_images_are_shown(tmp_path: Path) -> None:
    done, unseen = trial(tmp_path, 0, success=True), trial(tmp_path, 1, seen=False)
    excluded, failed = trial(tmp_path, 2, status="excluded"), trial(tmp_path, 3)
    assert failures_image(tmp_path, [done, unseen, excluded]) == b""
    assert failures_image(tmp_path, [done, unseen, excluded, failed]) == failures_image(tmp_path, [failed])


def test_at_most_twelve_rows_are_shown(tmp_path: Path) -> None:
    trials = [trial(tmp_path, seed) for seed in range(14)]
    assert failures_image(tmp_path, trials) == failures_image(tmp_path, trials[:12])
    assert read(failures_image(tmp_path, trials)).shape[0] == 12 * 130
