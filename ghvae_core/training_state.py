"""Where a training run stands, on disk: enough to go on as if nothing had happened, and never pickle."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from configs.loader import Config
from ghvae_core.ghvae import Ghvae
from ghvae_core.manifest import CheckpointError, pack, read_manifest, unpack, write_folder

_STATE, _WEIGHTS, _OPTIMIZER = "state.json", "weights.safetensors", "optimizer.safetensors"
_NAME = re.compile(r"state_\d{6}")


class Progress(Config):
    """The counters of a run. Every random number is drawn from the seed, the stage and the step, so no more is kept."""

    run: str  # sha256 of what must not change between start and resume: configuration, data, seed
    stage: int = Field(default=0, ge=0)  # index of the stage in work
    step: int = Field(default=0, ge=0)  # steps done in it
    lr_factor: float = Field(default=1.0, gt=0)  # halved at each restore
    restores: int = Field(default=0, ge=0)  # in this stage
    saves: int = Field(default=0, ge=0)
    figures: dict[str, dict[str, float]] = Field(default_factory=dict)  # of the finished stages, by name


def save_state(folder: Path, progress: Progress, model: Ghvae, optimizer: torch.optim.Adam) -> None:
    """Write a new state folder, then remove the older ones; a kill at any moment leaves a whole one.

    Raises:
        CheckpointWriteError: The disk refused; the older state is still there.
    """
    files = {
        _STATE: progress.model_dump_json(indent=2).encode(),
        _WEIGHTS: pack(model.state_dict()),
        _OPTIMIZER: pack(_flatten(optimizer)),
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


def load_progress(path: Path, run: str) -> Progress:
    """Return the counters of a state, checking its files and that it belongs to the run.

    Raises:
        CheckpointError: The state is damaged, or was written with another configuration, data or seed.
    """
    files, _, _ = read_manifest(path)
    try:
        progress = Progress.model_validate_json(files[_STATE])
    except (KeyError, ValidationError):
        raise CheckpointError(f"{path / _STATE}: not the state of a training run") from None
    if progress.run != run:
        raise CheckpointError(
            f"{path}: was written with another configuration, data or seed; give the same ones as at the start, "
            "or another --out"
        )
    return progress


def load_weights(path: Path, model: Ghvae) -> None:
    """Fill the model with the weights of a state.

    Raises:
        CheckpointError: The state is damaged.
    """
    files, _, _ = read_manifest(path)
    try:
        model.load_state_dict(unpack(files[_WEIGHTS], str(path / _WEIGHTS)))
    except RuntimeError:
        raise CheckpointError(f"{path / _WEIGHTS}: does not fit the model's configuration") from None


def load_optimizer(path: Path, optimizer: torch.optim.Adam) -> None:
    """Fill an optimizer of the same parameters with the moments of a state.

    Raises:
        CheckpointError: The state is damaged, or of other parameters.
    """
    files, _, _ = read_manifest(path)
    _unflatten(unpack(files[_OPTIMIZER], str(path / _OPTIMIZER)), optimizer, path)


def _flatten(optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    state: Mapping[int, Mapping[str, Tensor]] = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, moments in state.items() for name, tensor in moments.items()}


def _unflatten(tensors: Mapping[str, Tensor], optimizer: torch.optim.Adam, path: Path) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".")
        shape = () if name == "step" else parameters[int(index)].shape if int(index) < len(parameters) else None
        if tuple(tensor.shape) != shape:
            raise CheckpointError(f"{path / _OPTIMIZER}: {key} does not fit the parameters of this stage")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
