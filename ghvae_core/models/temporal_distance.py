"""Temporal distance: a small network that estimates the number of steps between two images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn

from configs.loader import Config, migrate
from ghvae_core.models.checkpoint_files import (
    CheckpointError,
    pack_tensors,
    read_manifest,
    unpack_tensors,
    write_folder,
)
from ghvae_core.models.layers import ResidualBlock, conv, norm

_CONFIG, _WEIGHTS = "distance.json", "distance.safetensors"


class TemporalDistanceConfig(Config):
    """Size of the network. All numbers: ours."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"most_steps": "max_steps"}

    image_px: int = Field(default=64, ge=8)
    channels: tuple[int, ...] = (24, 48, 64, 96)  # per stage; each stage halves the image side
    max_steps: int = Field(default=18, ge=1)  # a larger distance, or an unreachable goal, is one further class
    provenance: dict[str, str | int | float] = Field(default_factory=dict)  # data, seed, steps, metrics

    @model_validator(mode="after")
    def _check_size(self) -> TemporalDistanceConfig:
        if not self.channels or min(self.channels) < 1 or self.image_px % 2 ** len(self.channels):
            raise ValueError(
                f"channels: expected a positive number for each halving of {self.image_px} pixels, got {self.channels}"
            )
        return self


class TemporalDistance(nn.Module):
    """Predicts the distribution of the number of steps from an image to a goal."""

    def __init__(self, config: TemporalDistanceConfig) -> None:
        super().__init__()
        self.config = config
        self.sha256 = ""  # of its manifest; empty if not loaded from one
        widths = config.channels
        stages: list[nn.Module] = [conv(9, widths[0], 3)]  # image, goal and their difference
        for inputs, outputs in zip((widths[0], *widths), widths, strict=False):
            stages += [ResidualBlock(inputs, outputs), nn.AvgPool2d(2)]
        self.body = nn.Sequential(*stages, norm(widths[-1]), nn.LeakyReLU(0.2))
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * widths[-1], config.max_steps + 2)
        )
        nn.Module.to(self, memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on a CPU

    def forward(self, frames: Tensor, goals: Tensor) -> Tensor:
        """Return logits (N, max_steps + 2) of 0, 1, ... max_steps steps, and of more steps or an unreachable goal.

        Args:
            frames: (N, 3, px, px) in [0, 1].
            goals: The same shape, or (1, 3, px, px).
        """
        goals = goals.expand_as(frames)
        both = torch.cat([frames, goals, frames - goals], 1) - 0.5
        logits: Tensor = self.head(self.body(both.contiguous(memory_format=torch.channels_last)))
        return logits

    def steps(self, frames: Tensor, goals: Tensor) -> Tensor:
        """Return the expected number of steps (N,); the last class counts as `max_steps` + 1."""
        logits: Tensor = self(frames, goals).float()
        return logits.softmax(1) @ torch.arange(logits.shape[1], device=logits.device, dtype=torch.float32)


def save(folder: Path, distance: TemporalDistance, provenance: dict[str, str | int | float]) -> None:
    """Write the network as a folder of hashed files, completely or not at all.

    Raises:
        CheckpointWriteError: Writing failed. An existing folder is kept.
    """
    config = distance.config.model_copy(update={"provenance": provenance})
    text = json.dumps(config.model_dump(mode="json"), indent=2).encode() + b"\n"
    write_folder(folder, {_CONFIG: text, _WEIGHTS: pack_tensors(distance.state_dict())}, {})


def load(folder: Path, device: str | torch.device = "cpu") -> TemporalDistance:
    """Load a network after checking all hashes, shapes and values.

    Raises:
        CheckpointError: A file is missing, changed or does not fit.
    """
    files, _, sha256 = read_manifest(folder)
    if {*files} != {_CONFIG, _WEIGHTS}:
        raise CheckpointError(
            f"{folder}: expected {_CONFIG} and {_WEIGHTS}, got {sorted(files)}; train one with run_distance"
        )
    try:
        config = TemporalDistanceConfig.model_validate_json(_current(files[_CONFIG]))
    except ValidationError as error:
        item = error.errors()[0]
        raise CheckpointError(f"{folder / _CONFIG}: {_place(item['loc'])}: {item['msg']}") from None
    state = unpack_tensors(files[_WEIGHTS], str(folder / _WEIGHTS))
    with torch.device("meta"):  # allocates no memory, even for a damaged configuration
        expected = {name: tensor.shape for name, tensor in TemporalDistance(config).state_dict().items()}
    if {name: tensor.shape for name, tensor in state.items()} != expected:
        raise CheckpointError(f"{folder / _WEIGHTS}: its tensors do not fit {_CONFIG}; use another copy")
    distance = TemporalDistance(config)
    distance.load_state_dict(state)
    distance.sha256 = sha256
    return distance.requires_grad_(False).eval().to(device)


def _current(data: bytes) -> bytes:
    """Return a stored configuration under the present names; as it is where it is not JSON."""
    try:
        return json.dumps(migrate(TemporalDistanceConfig, json.loads(data))).encode()
    except (ValueError, RecursionError):
        return data


def _place(parts: Sequence[int | str]) -> str:
    return ".".join(map(str, parts))
