"""Whether a model has seen the episodes that it is to be judged on, as far as its checkpoint tells."""

from __future__ import annotations

from pathlib import Path

from ghvae_core.checkpoint import CheckpointInfo
from ghvae_core.dataset import DataConfig, digest_files, is_validation
from ghvae_core.metrics import MetricError


def check_held_out(folder: Path, info: CheckpointInfo, share: float) -> str:
    """Refuse episodes that the model was trained on.

    The checkpoint records a digest of the training folder (names and sizes of its files), not each episode: a folder
    that is another one, or has changed since, can hold some of them unnoticed.

    Args:
        folder: The episodes to judge on.
        info: Of the model; its provenance is what training recorded.
        share: The part of the folder that is judged, by the names of the files as in training.

    Returns:
        What is known, as a phrase for the report.

    Raises:
        MetricError: The folder is the training folder, and `share` is not the part that training left out.
    """
    recorded = info.provenance.get("validation_share")
    if not isinstance(recorded, float) or "data_sha256" not in info.provenance:
        return "not known, the checkpoint does not say what it was trained on"
    paths = sorted(folder.rglob("*.hdf5"))
    if info.provenance["data_sha256"] not in _digests(folder, paths, info, recorded):
        return "not known, the files are not those that training recorded but some may be among them"
    if share != recorded:
        raise MetricError(
            f"{folder}: the model was trained on these episodes; judge it on those that training left out with"
            f" --set evaluation.validation_share={recorded}, or on others with --data"
        )
    if all(is_validation(path.name, recorded) for path in paths):
        raise MetricError(f"{folder}: too few episodes for training to have left out a share; judge it on others")
    if info.provenance.get("init_sha256"):
        return "yes in the last training, not known of the checkpoint that it started from"
    return "yes, the share that training left out"


def training_camera(info: CheckpointInfo) -> int:
    """Return which camera of a file the model was trained on; the first where its checkpoint does not say it."""
    return int(info.provenance.get("camera", 0))


def _digests(folder: Path, paths: list[Path], info: CheckpointInfo, share: float) -> list[str]:
    """Return what `Dataset.sha256` would be of the folder: its files told step limit and duration, or the user did."""
    config = DataConfig(
        n_context=info.n_context, horizon=info.horizon, camera=training_camera(info), validation_share=share
    )
    told = config.model_copy(update={"step_limit_m": info.step_limit_m, "step_s": info.step_s})
    return [digest_files(paths, folder, each) for each in (config, told)]
