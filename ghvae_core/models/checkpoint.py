"""A trained model on disk: one safetensors file a module, what it was made for, and a manifest of hashes."""

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
from ghvae_core.models.svg import Svg, SvgConfig
from ghvae_core.models.video_model import VideoModel
from robot_bridge.camera import Camera

TOLERANCE = 0.02  # of a mean brightness in [0, 1]; other devices and bfloat16 stay far below it
_N, _SEED = 3, 7


def self_test_output(model: VideoModel, n_context: int, horizon: int, depth: int | None = None) -> tuple[float, ...]:
    """Return what a model imagines from a drawn context, as the mean colours of the quarters of its last images.

    Args:
        model: On any device, with any precision that the caller has set.
        n_context: Frames of context.
        horizon: How many steps to imagine.
        depth: How many of its modules to use; None is all.

    Returns:
        Of 3 candidates, 4 quarters and 3 colours, 36 numbers in [0, 1], or NaN.
    """
    device = model.action_scale.device
    rng = np.random.default_rng(_SEED)
    px, dim = model.config.image_px, model.config.action_dim
    coarse = torch.from_numpy(rng.random((n_context, 3, 4, 4)).astype(np.float32))
    context = torch.nn.functional.interpolate(coarse, (px, px), mode="bilinear")
    actions = torch.from_numpy(rng.uniform(-1, 1, (_N, n_context - 1 + horizon, dim)).astype(np.float32))
    frame: Tensor | None = None
    for imagined in model.predict(context[None].to(device), actions.to(device) * model.action_scale, depth=depth):
        frame = imagined
    assert frame is not None  # noqa: S101 - the horizon is at least 1
    means = torch.nn.functional.adaptive_avg_pool2d(frame.float(), 2)
    return tuple(round(float(mean), 5) for mean in means.flatten())


def matches_self_test(stored: Sequence[float], computed: Sequence[float]) -> bool:
    """Tell whether an answer is the stored one, as far as rounding goes."""
    apart = np.abs(np.asarray(stored) - np.asarray(computed))
    return len(stored) == len(computed) and bool((apart <= TOLERANCE).all())  # NaN is not


__all__ = ["AnyConfig", "Checkpoint", "CheckpointError", "CheckpointInfo", "build", "load", "module_sha256", "save"]

_CONFIG = "config.json"

_Vector = tuple[float, float, float]
AnyConfig = Annotated[GhvaeConfig | SvgConfig, Field(discriminator="kind")]  # of every model that there is


class CheckpointInfo(Config):
    """What a model is and what it was made for; compared with the robot at the handshake."""

    model: AnyConfig
    # Of the robot that the episodes came from. None: of no robot, or of several, that could be driven with it.
    step_limit_m: float | None = Field(default=None, gt=0)
    step_s: float | None = Field(default=None, gt=0)  # duration of their steps
    workspace_m: tuple[_Vector, _Vector] | None = None  # low and high x, y, z in the base frame; None: not told
    camera: Camera | None = None  # that filmed the episodes, and its crop; None: not told
    n_context: int = Field(default=2, ge=1)  # paper E.1
    horizon: int = Field(default=10, ge=1)  # paper E.1
    modules_trained: int = Field(ge=0)  # the first so many modules are trained, and only they are to be used
    # Root mean square error of imagined images in [0, 1], by step after the context, that 95 % of validation windows
    # stay below; None: not measured.
    val_rmse_p95: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = Field(default=None, max_length=1024)
    # To the question of `ghvae_core.models.checkpoint`; `save` writes it. None: an older checkpoint.
    self_test_output: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = Field(default=None, max_length=36)
    provenance: dict[str, str | int | float | bool] = Field(default_factory=dict)  # data, seed, steps, figures

    @model_validator(mode="after")
    def _check_context(self) -> CheckpointInfo:
        if isinstance(self.model, SvgConfig) and self.model.n_context != self.n_context:
            raise ValueError(f"model.n_context: expected {self.n_context} as n_context, got {self.model.n_context}")
        return self


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as loaded."""

    model: VideoModel  # in evaluation mode, without gradients, on the device asked for; only the trained modules
    info: CheckpointInfo
    sha256: str  # of the manifest: names weights and configuration alike


def build(config: GhvaeConfig | SvgConfig) -> VideoModel:
    """Return a model of the configured kind and size with random weights."""
    return Ghvae(config) if isinstance(config, GhvaeConfig) else Svg(config)


def save(folder: Path, model: VideoModel, info: CheckpointInfo) -> None:
    """Write the trained modules as one folder, whole or not at all.

    Each module's file is listed in the manifest with the hash of the modules above it, so a module that was trained on
    other lower modules can never be slipped in. The configuration holds what the model answers to a stored question.

    Raises:
        CheckpointWriteError: A weight is not finite, or the disk refused. What stood there before is kept.
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
    told = self_test_output(model, info.n_context, info.horizon, info.modules_trained)
    if not np.isfinite(told).all():
        raise CheckpointWriteError(f"{folder}: the model imagines NaN or infinity; not written")
    files[_CONFIG] = checkpoint_files.pack_config(
        info.model_copy(update={"self_test_output": told}).model_dump(mode="json")
    )
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
    config = info.model.up_to(info.modules_trained)
    with torch.device("meta"):  # without memory, of which a damaged configuration could ask for any amount
        shapes = build(config)
    for k, state in enumerate(states, start=1):
        _check_fit(shapes.module(k), state, folder / _file(k))
    model = build(config)
    for k, state in enumerate(states, start=1):
        model.module(k).load_state_dict(state)
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
        raise CheckpointError(f"{folder}: the manifest does not say which modules each was trained on")
    for name in names:
        if chain.get(name) != expected[name]:
            raise CheckpointError(f"{folder / name}: was trained on other lower modules than those beside it")


def _check_fit(module: torch.nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights whose names, shapes and types are not exactly those that the configuration asks for."""
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
