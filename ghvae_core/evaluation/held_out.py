"""Whether a model has seen the episodes that it is to be judged on, as far as its checkpoint tells."""

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


def choose(recordings: Sequence[Recording], info: CheckpointInfo, share: float, part: Part) -> list[Recording]:
    """Return the episodes to judge on, by their names as training divides them.

    Args:
        recordings: All episodes of the folder.
        info: Of the first model, whose training divided them.
        share: Of the episodes, of which `held-out` takes what training would have left out; 1: all.
        part: `trained-on` takes what the training of `info` did not leave out.

    Raises:
        MetricError: None are left.
    """
    names = [each.name for each in recordings]
    if part == "held-out":
        wanted = held_out_mask(names, share)
    else:
        recorded = info.provenance.get("validation_fraction")
        wanted = np.ones(len(names), bool) if recorded is None else ~held_out_mask(names, float(recorded))
    chosen = [each for each, is_wanted in zip(recordings, wanted, strict=True) if is_wanted]
    if not chosen:
        raise MetricError(
            f"expected episodes to judge on, found none among {len(recordings)} in the"
            f" evaluation.validation_fraction of {share:g}"
        )
    return chosen


def check_held_out(folder: Path, info: CheckpointInfo, share: float, part: Part = "held-out") -> str:
    """Refuse episodes that the model was trained on, unless they are asked for.

    The checkpoint records a digest of the training folder (names and sizes of its files), not each episode: a folder
    that is another one, or has changed since, can hold some of them unnoticed.

    Args:
        folder: The episodes to judge on.
        info: Of the model; its provenance is what training recorded.
        share: The part of the folder that is judged, by the names of the files as in training.
        part: What was asked for.

    Returns:
        What is known, as a phrase for the report.

    Raises:
        MetricError: The folder is the training folder, and `share` is not the part that training left out.
    """
    recorded = info.provenance.get("validation_fraction")
    if not isinstance(recorded, float) or "data_sha256" not in info.provenance:
        return "not known, the checkpoint does not say what it was trained on"
    recordings = find(folder)
    paths = [*dict.fromkeys(recording.path for recording in recordings)]
    trained_on = str(info.provenance.get("folder_sha256", info.provenance["data_sha256"])).split()
    if not {*trained_on} & {*_digests(folder, paths, info, recorded)}:
        return "not known, the files are not those that training recorded but some may be among them"
    if part == "trained-on":
        return "no, these are the episodes that it was trained on, as asked"
    if share != recorded:
        raise MetricError(
            f"{folder}: the model was trained on these episodes; judge it on those that training left out with"
            f" --set evaluation.validation_fraction={recorded}, on others with --data, or, for a figure of what it"
            " remembers, with --part trained-on"
        )
    if not held_out_mask([each.name for each in recordings], recorded).any():
        raise MetricError(f"{folder}: too few episodes for training to have left out a share; judge it on others")
    if info.provenance.get("init_sha256"):
        return "yes in the last training, not known of the checkpoint that it started from"
    return "yes, the share that training left out"


def training_camera(info: CheckpointInfo) -> int:
    """Return which camera of a file the model was trained on; the first where its checkpoint does not say it."""
    return int(info.provenance.get("camera", 0))


def training_stride(info: CheckpointInfo) -> int:
    """Return of how many frames of a video file training took one; 1 where the checkpoint does not say it."""
    return int(info.provenance.get("video_stride", 1))


def _digests(folder: Path, paths: list[Path], info: CheckpointInfo, share: float) -> list[str]:
    """Return what `Dataset.folder_sha256` may say: the files told step limit and duration, or the user did, or none."""
    config = DataConfig(
        n_context=info.n_context,
        horizon=info.horizon,
        camera=training_camera(info),
        validation_fraction=share,
        video_stride=training_stride(info),
    )
    told = {"step_limit_m": info.step_limit_m, "step_s": info.step_s}
    free = {"action_free": True}  # which a model without actions need not have been told
    return [digest_files(paths, folder, config.model_copy(update=changes)) for changes in ({}, told, free, free | told)]
