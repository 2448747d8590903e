"""Checkpoints: one safetensors file per module, a configuration, and a manifest of hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from configs.loader import Config
from ghvae_core.models import checkpoint_files
from ghvae_core.models.checkpoint_files import (
    CheckpointError,
    CheckpointWriteError,
    pack_tensors,
    read_manifest,
    unpack_tensors,
    write_folder,
)
from ghvae_core.models.ghvae import Ghvae, GhvaeConfig
from ghvae_core.models.hier_vrnn import HierVrnn, HierVrnnConfig
from ghvae_core.models.svg import Svg, SvgConfig
from ghvae_core.models.video_model import VideoModel
from robot_bridge.camera import Camera

__all__ = [
    "AnyConfig",
    "Checkpoint",
    "CheckpointError",
    "CheckpointInfo",
    "build",
    "load",
    "matches_self_test",
    "module_sha256",
    "save",
    "self_test_output",
]

SELF_TEST_TOLERANCE = 0.02  # of mean brightness in [0, 1]; other devices and bfloat16 are far below it; ours
_N_SELF_TEST, _SEED = 3, 7  # candidates and seed of the self-test; ours
_CONFIG = "config.json"

_Vector = tuple[float, float, float]
AnyConfig = Annotated[GhvaeConfig | SvgConfig | HierVrnnConfig, Field(discriminator="kind")]  # of all kinds of models


class CheckpointInfo(Config):
    """Configuration of a model and of its training data; compared with the robot at the handshake."""

    model: AnyConfig
    # Of the robot in the episodes. None: no robot, or several; the model cannot be used for planning.
    step_limit_m: float | None = Field(default=None, gt=0)
    step_s: float | None = Field(default=None, gt=0)  # duration of a step
    workspace_m: tuple[_Vector, _Vector] | None = None  # low and high x, y, z in the base frame; None: unknown
    camera: Camera | None = None  # of the episodes, with its crop; None: unknown
    n_context: int = Field(default=2, ge=1)  # paper E.1
    horizon: int = Field(default=10, ge=1)  # paper E.1
    modules_trained: int = Field(ge=0)  # number of trained modules, from the first; only they are saved
    # 95th percentile over validation windows of the root mean square error of predicted frames in [0, 1], by step after
    # the context; None: not measured.
    val_rmse_p95: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = Field(default=None, max_length=1024)
    # Of `self_test_output`, set by `save`. None: a checkpoint of an earlier version.
    self_test_output: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = Field(default=None, max_length=36)
    provenance: dict[str, str | int | float | bool] = Field(default_factory=dict)  # data, seed, steps, metrics

    @model_validator(mode="after")
    def _check_context(self) -> CheckpointInfo:
        if self.model.n_context != self.n_context:
            raise ValueError(f"model.n_context: expected {self.n_context} as n_context, got {self.model.n_context}")
        return self


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint."""

    model: VideoModel  # the trained modules, in evaluation mode, without gradients, on the requested device
    info: CheckpointInfo
    sha256: str  # of the manifest: identifies weights and configuration


def build(config: AnyConfig) -> VideoModel:
    """Return a model of the configured kind and size with random weights."""
    if isinstance(config, GhvaeConfig):
        return Ghvae(config)
    return Svg(config) if isinstance(config, SvgConfig) else HierVrnn(config)


def save(folder: Path, model: VideoModel, info: CheckpointInfo) -> None:
    """Write the trained modules as one folder, completely or not at all.

    The manifest lists each module's file with the hashes of the lower modules that it was trained on, so modules of
    different checkpoints cannot be mixed. The configuration contains the output of the self-test.

    Raises:
        CheckpointWriteError: A weight or a prediction is not finite, or writing failed. An existing folder is kept.
    """
    files: dict[str, bytes] = {}
    chain: dict[str, dict[str, str]] = {}
    above: dict[str, str] = {}
    for k in range(1, info.modules_trained + 1):
        name, state = _file(k), model.module(k).state_dict()
        if not all(torch.isfinite(tensor).all() for tensor in state.values()):
            raise CheckpointWriteError(f"{folder / name}: module {k} holds NaN or infinity; not written")
        files[name], chain[name] = pack_tensors(state), dict(above)
        above[name] = module_sha256(state)
    output = self_test_output(model, info.n_context, info.horizon, info.modules_trained)
    if not np.isfinite(output).all():
        raise CheckpointWriteError(f"{folder}: the model predicts NaN or infinity; not written")
    files[_CONFIG] = checkpoint_files.pack_config(
        info.model_copy(update={"self_test_output": output}).model_dump(mode="json")
    )
    write_folder(folder, files, {"trained_on": chain})


def load(folder: Path, device: str = "cpu") -> Checkpoint:
    """Load a checkpoint after checking all hashes, shapes and values.

    Raises:
        CheckpointError: A file is missing, changed or does not fit; the message names it and the reason.
    """
    files, manifest, digest = read_manifest(folder)
    info = _info(files, folder)
    states = _states(files, info, folder)
    _check_chain(states, manifest.get("trained_on"), folder)
    config = info.model.up_to(info.modules_trained)
    with torch.device("meta"):  # allocates no memory, even for a damaged configuration
        shapes = build(config)
    for k, state in enumerate(states, start=1):
        _check_fit(shapes.module(k), state, folder / _file(k))
    model = build(config)
    for k, state in enumerate(states, start=1):
        model.module(k).load_state_dict(state)
    return Checkpoint(model.requires_grad_(False).eval().to(device), info, digest)


def self_test_output(model: VideoModel, n_context: int, horizon: int, depth: int | None = None) -> tuple[float, ...]:
    """Return the prediction for a fixed random input, as mean colours of the quarters of the last frames.

    Args:
        model: On any device, in any precision set by the caller.
        n_context: Number of context frames.
        horizon: Number of predicted steps.
        depth: Number of modules to use; None: all.

    Returns:
        36 numbers in [0, 1], or NaN: of 3 candidates, 3 colours and 4 quarters.
    """
    device = model.action_scale.device
    rng = np.random.default_rng(_SEED)
    px, dim = model.config.image_px, model.config.action_dim
    coarse = torch.from_numpy(rng.random((n_context, 3, 4, 4)).astype(np.float32))
    context = torch.nn.functional.interpolate(coarse, (px, px), mode="bilinear")
    actions = torch.from_numpy(rng.uniform(-1, 1, (_N_SELF_TEST, n_context - 1 + horizon, dim)).astype(np.float32))
    frame: Tensor | None = None
    for prediction in model.predict(context[None].to(device), actions.to(device) * model.action_scale, depth=depth):
        frame = prediction
    assert frame is not None  # noqa: S101 - the horizon is at least 1
    means = torch.nn.functional.adaptive_avg_pool2d(frame.float(), 2)
    return tuple(round(float(mean), 5) for mean in means.flatten())


def matches_self_test(stored: Sequence[float], computed: Sequence[float]) -> bool:
    """Return whether an output equals the stored one within `SELF_TEST_TOLERANCE`."""
    difference = np.abs(np.asarray(stored) - np.asarray(computed))
    return len(stored) == len(computed) and bool((difference <= SELF_TEST_TOLERANCE).all())  # False for NaN


def module_sha256(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 of weights: of their names, shapes, types and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _file(k: int) -> str:
    return f"module_{k}.safetensors"


def _info(files: Mapping[str, bytes], folder: Path) -> CheckpointInfo:
    try:
        info = CheckpointInfo.model_validate_json(checkpoint_files.unpack_config(files[_CONFIG], folder / _CONFIG))
    except KeyError:
        raise CheckpointError(f"{folder}: {_CONFIG} is missing") from None
    except ValidationError as error:
        item = error.errors()[0]
        place = ".".join(str(part) for part in item["loc"])
        raise CheckpointError(f"{folder / _CONFIG}: {place}: {item['msg']}") from None
    if not 1 <= info.modules_trained <= info.model.n_modules:
        raise CheckpointError(
            f"{folder}: expected 1 to {info.model.n_modules} trained modules, got {info.modules_trained}"
        )
    return info


def _states(files: Mapping[str, bytes], info: CheckpointInfo, folder: Path) -> list[dict[str, Tensor]]:
    names = [_file(k) for k in range(1, info.modules_trained + 1)]
    if {*names, _CONFIG} != set(files):
        raise CheckpointError(f"{folder}: expected {[*names, _CONFIG]}, got {sorted(files)}")
    return [unpack_tensors(files[name], str(folder / name)) for name in names]


def _check_chain(states: list[dict[str, Tensor]], chain: object, folder: Path) -> None:
    hashes = {_file(k): module_sha256(state) for k, state in enumerate(states, start=1)}
    names = list(hashes)
    expected = {name: {lower: hashes[lower] for lower in names[:k]} for k, name in enumerate(names)}
    if not isinstance(chain, dict):
        raise CheckpointError(f"{folder}: the manifest does not list the lower modules of each module")
    for name in names:
        if chain.get(name) != expected[name]:
            raise CheckpointError(f"{folder / name}: was trained on other lower modules than those in the folder")


def _check_fit(module: torch.nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights whose names, shapes and types are not exactly those of the configuration."""
    for what in ("shape", "dtype"):
        expected, got = (
            {name: _text(getattr(tensor, what)) for name, tensor in each.items()}
            for each in (module.state_dict(), state)
        )
        if expected != got:
            name = min(dict(expected.items() ^ got.items()))
            raise CheckpointError(f"{path}: {name}: expected {what} {expected.get(name)}, got {got.get(name)}")


def _text(value: torch.Size | torch.dtype) -> str:
    return str(tuple(value) if isinstance(value, torch.Size) else value)
