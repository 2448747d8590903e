"""The state of a training run on disk, from which it resumes with identical results; no pickle."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

from pydantic import Field, field_validator
from torch import Tensor, nn

from configs.loader import Config, migrate
from ghvae_core.models.checkpoint_files import (
    CheckpointError,
    pack_tensors,
    read_manifest,
    unpack_tensors,
    write_folder,
)

_STATE, _WEIGHTS = "state.json", "weights.safetensors"
_OPTIMIZER, _AVERAGES = "optimizer.safetensors", "averages.safetensors"
FORMER_STAGES = {"polish": "prior_finetune"}  # stage names of earlier versions, on disk

_NAME = re.compile(r"state_\d{6}")


class TrainingProgress(Config):
    """Counters of a run. Random numbers depend on seed, stage and step alone, so no generator state is stored."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"figures": "metrics"}

    run: str  # sha256 of configuration, data and seed, which must be the same when the run is resumed
    stage: int = Field(default=0, ge=0)  # index of the present stage
    step: int = Field(default=0, ge=0)  # finished steps of this stage
    lr_factor: float = Field(default=1.0, gt=0)  # halved by each restore
    restores: int = Field(default=0, ge=0)  # of this stage
    saves: int = Field(default=0, ge=0)
    metrics: dict[str, dict[str, float]] = Field(default_factory=dict)  # validation metrics of finished stages, by name

    @field_validator("metrics")
    @classmethod
    def _rename_stages(cls, metrics: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        return {FORMER_STAGES.get(name, name): values for name, values in metrics.items()}


class OptimizerState(NamedTuple):
    """State of the optimizer of a stage; full tensors, also of a sharded stage."""

    moments: dict[str, Tensor]  # of Adam, by "parameter number.name"
    averages: dict[str, Tensor]  # moving averages of the weights, by parameter number; empty without EMA


class TrainingState(NamedTuple):
    """A state as loaded."""

    progress: TrainingProgress
    weights: dict[str, Tensor]
    moments: OptimizerState
    path: Path


def save_state(
    folder: Path, progress: TrainingProgress, weights: Mapping[str, Tensor], moments: OptimizerState
) -> None:
    """Write a new state folder, then remove the older ones; a kill at any moment leaves an intact one.

    Raises:
        CheckpointWriteError: Writing failed; the older state is kept.
    """
    files = {
        _STATE: progress.model_dump_json(indent=2).encode(),
        _WEIGHTS: pack_tensors(weights),
        _OPTIMIZER: pack_tensors(moments.moments),
        _AVERAGES: pack_tensors(moments.averages),
    }
    path = folder / f"state_{progress.saves:06d}"
    write_folder(path, files, {})
    for other in folder.iterdir():
        if other != path and (_NAME.fullmatch(other.name) or other.name.startswith(".state_")):
            shutil.rmtree(other, ignore_errors=True)


def latest_state(folder: Path) -> Path | None:
    """Return the newest state folder of a run; None if there is none."""
    states = sorted(path for path in folder.glob("state_*") if _NAME.fullmatch(path.name))
    return states[-1] if states else None


def load_state(path: Path, run: str) -> TrainingState:
    """Load a state after checking its files and that it belongs to the run.

    Raises:
        CheckpointError: The state is damaged, or was written with another configuration, data or seed.
    """
    files, _, _ = read_manifest(path)
    try:
        tree = migrate(TrainingProgress, json.loads(files[_STATE]))
        progress = TrainingProgress.model_validate_json(json.dumps(tree))
    except (KeyError, ValueError, RecursionError):
        raise CheckpointError(f"{path / _STATE}: not the state of a training run") from None
    if progress.run != run:
        raise CheckpointError(
            f"{path}: was written with another configuration, data or seed; use those of the start, or another --out"
        )
    names = (_WEIGHTS, _OPTIMIZER, _AVERAGES)
    if missing := [name for name in names if name not in files]:
        raise CheckpointError(f"{path}: {missing[0]} is missing; it was written by another version")
    weights, moments, averages = (unpack_tensors(files[name], str(path / name)) for name in names)
    return TrainingState(progress, weights, OptimizerState(moments, averages), path)


def rename_former_stages(folder: Path) -> None:
    """Give the checkpoints of the stages of a run that an earlier version began the present names.

    Args:
        folder: Holds one checkpoint per stage; need not exist.
    """
    for former, name in FORMER_STAGES.items():
        if (folder / former).is_dir() and not (folder / name).exists():
            (folder / former).rename(folder / name)


def load_weights(state: TrainingState, model: nn.Module) -> None:
    """Load the weights of a state into a model.

    Raises:
        CheckpointError: The weights do not fit the model.
    """
    try:
        model.load_state_dict(state.weights)
    except RuntimeError:
        raise CheckpointError(f"{state.path / _WEIGHTS}: does not fit the model's configuration") from None
