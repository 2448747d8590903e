"""A trained GHVAE on disk: one safetensors file a module, what it was made for, and a manifest of hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from configs.loader import Config
from ghvae_core.ghvae import Ghvae, GhvaeConfig
from ghvae_core.manifest import CheckpointError, CheckpointWriteError, pack, read_manifest, unpack, write_folder

__all__ = ["Checkpoint", "CheckpointError", "CheckpointInfo", "load", "module_sha256", "save"]

_CONFIG = "config.json"


class CheckpointInfo(Config):
    """What a model is and what it was made for; compared with the robot at the handshake."""

    model: GhvaeConfig
    step_limit_m: float = Field(gt=0)  # of the robot that the episodes came from
    step_s: float = Field(gt=0)  # duration of their steps
    n_context: int = Field(default=2, ge=1)  # paper E.1
    horizon: int = Field(default=10, ge=1)  # paper E.1
    modules_trained: int = Field(ge=0)  # the first so many modules are trained, and only they are to be used
    provenance: dict[str, str | int | float | bool] = Field(default_factory=dict)  # data, seed, steps, figures


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as loaded."""

    model: Ghvae  # in evaluation mode, without gradients, on the device asked for; only the trained modules
    info: CheckpointInfo
    sha256: str  # of the manifest: names weights and configuration alike


def save(folder: Path, model: Ghvae, info: CheckpointInfo) -> None:
    """Write the trained modules as one folder, whole or not at all.

    Each module's file is listed in the manifest with the hash of the modules above it, so a module that was trained on
    other lower modules can never be slipped in.

    Raises:
        CheckpointWriteError: A weight is not finite, or the disk refused. What stood there before is kept.
    """
    files = {_CONFIG: info.model_dump_json(indent=2).encode() + b"\n"}
    chain = {}
    for k in range(1, info.modules_trained + 1):
        name, state = _file(k), model.module(k).state_dict()
        if not all(torch.isfinite(tensor).all() for tensor in state.values()):
            raise CheckpointWriteError(f"{folder / name}: module {k} holds NaN or infinity; not written")
        files[name] = pack(state)
        chain[name] = {_file(j): module_sha256(model.module(j).state_dict()) for j in range(1, k)}
    write_folder(folder, files, {"trained_on": chain})


def load(folder: Path, device: str = "cpu") -> Checkpoint:
    """Load a checkpoint after checking every hash, then shapes, then finiteness.

    Raises:
        CheckpointError: Anything missing, changed, or not fitting; the message names the file and the reason.
    """
    files, manifest, digest = read_manifest(folder)
    info = _info(files, folder)
    states = _states(files, info, folder)
    _check_chain(states, manifest.get("trained_on"), folder)
    trained = info.model.model_copy(update={"modules": info.model.modules[: info.modules_trained]})
    model = Ghvae(trained)
    for k, state in enumerate(states, start=1):
        _fill(model.module(k), state, folder / _file(k))
    return Checkpoint(model.requires_grad_(False).eval().to(device), info, digest)


def module_sha256(state: Mapping[str, Tensor]) -> str:
    """Return a hash of weights by name, shape, type and value, whatever file they stand in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _file(k: int) -> str:
    return f"module_{k}.safetensors"


def _info(files: Mapping[str, bytes], folder: Path) -> CheckpointInfo:
    try:
        info = CheckpointInfo.model_validate_json(files[_CONFIG])
    except KeyError:
        raise CheckpointError(f"{folder}: {_CONFIG} is missing") from None
    except ValidationError as error:
        item = error.errors()[0]
        place = ".".join(str(part) for part in item["loc"])
        raise CheckpointError(f"{folder / _CONFIG}: {place}: {item['msg']}") from None
    if not 1 <= info.modules_trained <= len(info.model.modules):
        raise CheckpointError(
            f"{folder}: expected 1 to {len(info.model.modules)} trained modules, got {info.modules_trained}"
        )
    return info


def _states(files: Mapping[str, bytes], info: CheckpointInfo, folder: Path) -> list[dict[str, Tensor]]:
    names = [_file(k) for k in range(1, info.modules_trained + 1)]
    if {*names, _CONFIG} != set(files):
        raise CheckpointError(f"{folder}: expected {[*names, _CONFIG]}, got {sorted(files)}")
    return [unpack(files[name], str(folder / name)) for name in names]


def _check_chain(states: list[dict[str, Tensor]], chain: object, folder: Path) -> None:
    hashes = {_file(k): module_sha256(state) for k, state in enumerate(states, start=1)}
    names = list(hashes)
    expected = {name: {lower: hashes[lower] for lower in names[:k]} for k, name in enumerate(names)}
    if not isinstance(chain, dict):
        raise CheckpointError(f"{folder}: the manifest does not say which modules each was trained on")
    for name in names:
        if chain.get(name) != expected[name]:
            raise CheckpointError(f"{folder / name}: was trained on other lower modules than those beside it")


def _fill(module: torch.nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Copy weights into a module; names and shapes must be exactly those that the configuration asks for."""
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if expected != got:
        name = sorted(set(expected.items()) ^ set(got.items()))[0][0]
        raise CheckpointError(f"{path}: {name}: expected shape {expected.get(name)}, got {got.get(name)}")
    module.load_state_dict(dict(state))
