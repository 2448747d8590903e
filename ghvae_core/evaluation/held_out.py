"""Which episodes a model was not trained on, as far as its checkpoint records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from data_collection.formats.reader import Recording, find
from ghvae_core.data.dataset import DataConfig, digest_files, held_out_mask
from ghvae_core.evaluation.metrics import MetricError
from ghvae_core.models.checkpoint import CheckpointInfo

Part = Literal["held-out", "trained-on"]


def choose(recordings: Sequence[Recording], info: CheckpointInfo, fraction: float, part: Part) -> list[Recording]:
    """Return the episodes to evaluate, divided by their names as in training.

    Args:
        recordings: All episodes of the folder.
        info: Of the first model, whose training divided the episodes.
        fraction: `held-out` takes the episodes that training with this `validation_fraction` holds out; 1: all.
        part: `trained-on` takes the episodes that the training of `info` used.

    Raises:
        MetricError: None are left.
    """
    names = [each.name for each in recordings]
    if part == "held-out":
        chosen_mask = held_out_mask(names, fraction)
    else:
        recorded = info.provenance.get("validation_fraction")
        chosen_mask = np.ones(len(names), bool) if recorded is None else ~held_out_mask(names, float(recorded))
    chosen = [each for each, is_chosen in zip(recordings, chosen_mask, strict=True) if is_chosen]
    if not chosen:
        raise MetricError(
            f"expected episodes to evaluate, found none among {len(recordings)} in the"
            f" evaluation.validation_fraction of {fraction:g}"
        )
    return chosen


def check_held_out(folder: Path, info: CheckpointInfo, fraction: float, part: Part = "held-out") -> str:
    """Refuse episodes that the model was trained on, unless they were requested.

    The checkpoint records a digest of the training folder (names and sizes of its files), not each episode: in another
    folder, or one that has changed since, episodes of the training are not detected.

    Args:
        folder: The episodes to evaluate.
        info: Information of the checkpoint; training recorded its data in `provenance`.
        fraction: Fraction of the folder that is evaluated, chosen by the names of the files as in training.
        part: The requested part.

    Returns:
        A phrase for the report.

    Raises:
        MetricError: The folder is the training folder, and `fraction` is not the one that training held out.
    """
    recorded = info.provenance.get("validation_fraction")
    if not isinstance(recorded, float) or "data_sha256" not in info.provenance:
        return "not known, the checkpoint does not record its training data"
    recordings = find(folder)
    paths = [*dict.fromkeys(recording.path for recording in recordings)]
    trained_on = str(info.provenance.get("folder_sha256", info.provenance["data_sha256"])).split()
    if not {*trained_on} & {*_digests(folder, paths, info, recorded)}:
        return "not known, the files differ from the recorded training files but may include some of them"
    if part == "trained-on":
        return "no, these are the episodes of the training, as requested"
    if fraction != recorded:
        raise MetricError(
            f"{folder}: the model was trained on these episodes; evaluate it on those that training held out with"
            f" --set evaluation.validation_fraction={recorded}, on others with --data, or on its training"
            " data with --part trained-on"
        )
    if not held_out_mask([each.name for each in recordings], recorded).any():
        raise MetricError(f"{folder}: too few episodes for training to have held out any; evaluate it on others")
    if info.provenance.get("init_sha256"):
        return "yes in the last training, not known for the checkpoint that it started from"
    return "yes, the fraction that training held out"


def training_camera(info: CheckpointInfo) -> int:
    """Return the camera index of the training data; 0 where the checkpoint does not record it."""
    return int(info.provenance.get("camera", 0))


def training_stride(info: CheckpointInfo) -> int:
    """Return the stride over frames of video files in training; 1 where the checkpoint does not record it."""
    return int(info.provenance.get("video_stride", 1))


def _digests(folder: Path, paths: list[Path], info: CheckpointInfo, fraction: float) -> list[str]:
    """Return the possible values of `Dataset.folder_sha256`: the scale of steps is part of it or not."""
    config = DataConfig(
        n_context=info.n_context,
        horizon=info.horizon,
        camera=training_camera(info),
        validation_fraction=fraction,
        video_stride=training_stride(info),
    )
    recorded_scale = {"step_limit_m": info.step_limit_m, "step_s": info.step_s}
    action_free = {"action_free": True}  # not needed for a model without actions
    return [
        digest_files(paths, folder, config.model_copy(update=changes))
        for changes in ({}, recorded_scale, action_free, action_free | recorded_scale)
    ]
