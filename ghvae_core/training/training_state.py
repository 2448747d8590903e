"""Where a training run stands, on disk: enough to go on as if nothing had happened, and never pickle."""

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
    """The counters of a run. Every random number is drawn from the seed, the stage and the step, so no more is kept."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"figures": "metrics"}

    run: str  # sha256 of what must not change between start and resume: configuration, data, seed
    stage: int = Field(default=0, ge=0)  # index of the stage in work
    step: int = Field(default=0, ge=0)  # steps done in it
    lr_factor: float = Field(default=1.0, gt=0)  # halved at each restore
    restores: int = Field(default=0, ge=0)  # in this stage
    saves: int = Field(default=0, ge=0)
    metrics: dict[str, dict[str, float]] = Field(default_factory=dict)  # validation metrics of finished stages, by name

    @field_validator("metrics")
    @classmethod
    def _rename_stages(cls, metrics: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        return {FORMER_STAGES.get(name, name): values for name, values in metrics.items()}


class OptimizerState(NamedTuple):
    """What the optimizer of a stage keeps beside the weights; whole tensors, whatever they were spread over."""

    moments: dict[str, Tensor]  # of Adam: "parameter's number.name"
    averages: dict[str, Tensor]  # of the weights, by the parameter's number; empty where none are kept


class TrainingState(NamedTuple):
    """A state as read."""

    progress: TrainingProgress
    weights: dict[str, Tensor]
    moments: OptimizerState
    path: Path


def save_state(
    folder: Path, progress: TrainingProgress, weights: Mapping[str, Tensor], moments: OptimizerState
) -> None:
    """Write a new state folder, then remove the older ones; a kill at any moment leaves a whole one.

    Raises:
        CheckpointWriteError: The disk refused; the older state is still there.
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
    """Return the newest state folder of a run; None when there is none."""
    states = sorted(path for path in folder.glob("state_*") if _NAME.fullmatch(path.name))
    return states[-1] if states else None


def load_state(path: Path, run: str) -> TrainingState:
    """Read a state, checking its files and that it belongs to the run.

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
            f"{path}: was written with another configuration, data or seed; give the same ones as at the start, "
            "or another --out"
        )
    names = (_WEIGHTS, _OPTIMIZER, _AVERAGES)
    if missing := [name for name in names if name not in files]:
        raise CheckpointError(f"{path}: {missing[0]} is missing; it is of another version of this program")
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
    """Fill the model with the weights of a state.

    Raises:
        CheckpointError: They are not of this model.
    """
    try:
        model.load_state_dict(state.weights)
    except RuntimeError:
        raise CheckpointError(f"{state.path / _WEIGHTS}: does not fit the model's configuration") from None
