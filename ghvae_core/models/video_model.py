"""Interface of all video-prediction models: configuration, modules and rollout.

Symbols: N sequences, A numbers per action, px the side of the image. Modules count from 1, the shallowest; a model that
is not trained greedily is one module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from configs.loader import Config

IMAGE_CHANNELS = 3  # RGB


def _ones(fields: dict[str, Any]) -> tuple[float, ...]:
    return (1.0,) * int(fields.get("action_dim", 0))  # absent if it was refused


class ModelConfig(Config):
    """Settings of all kinds of models."""

    image_px: int = Field(default=64, gt=0)  # paper E.1
    action_dim: int = Field(default=4, ge=0)  # paper E.1; 0 is the paper's action-free mode
    # Raw actions are divided by it, so that the inputs are around 1. Set from the data.
    action_scale: tuple[float, ...] = Field(default_factory=_ones)
    # Context frames; the last of them is a source of still pixels, in training and prediction. Set from the data.
    n_context: int = Field(default=2, ge=1)  # paper E.1

    @model_validator(mode="after")
    def _check_scale(self) -> ModelConfig:
        if len(self.action_scale) != self.action_dim or min(self.action_scale, default=1) <= 0:
            raise ValueError(f"action_scale needs {self.action_dim} positive numbers, got {self.action_scale}")
        return self

    @property
    def n_modules(self) -> int:
        """Number of modules."""
        return 1

    @property
    def takes_actions(self) -> bool:
        """Whether predictions depend on actions."""
        return self.action_dim > 0

    def up_to(self, depth: int) -> Self:  # noqa: ARG002 - there is one module
        """Return the configuration of the first `depth` modules: itself, unless it has several."""
        return self


class VideoModel(nn.Module, ABC):
    """A model that predicts frames from context frames and, unless it is action-free, actions."""

    action_scale: Tensor  # (A,)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("action_scale", torch.tensor(config.action_scale), persistent=False)

    @property
    def n_modules(self) -> int:
        """Number of modules."""
        return self.config.n_modules

    def module(self, k: int) -> nn.Module:
        """Return module k, counted from 1, with exactly its own parameters: the model itself, unless it has several."""
        if k != 1:
            raise ValueError(f"expected module 1, as the model has one module, got {k}")
        return self

    @abstractmethod
    def unroll(
        self, context: Tensor, actions: Tensor, generator: torch.Generator | None = None, depth: int | None = None
    ) -> Iterator[Tensor]:
        """Like `predict`, but with gradients if the caller records them."""

    @abstractmethod
    def features(self, frames: Tensor) -> Tensor:
        """Return the deepest features (N, C, h, w) of frames (N, 3, px, px) in [0, 1]."""

    def predict(
        self, context: Tensor, actions: Tensor, generator: torch.Generator | None = None, depth: int | None = None
    ) -> Iterator[Tensor]:
        """Predict the frames of action sequences, one step at a time; the caller may stop between steps.

        Args:
            context: (1 or N, n_context, 3, px, px) in [0, 1], oldest first. One context is encoded once and shared.
            actions: (N, n_context - 1 + T, A) as recorded: metres and +-1 for the gripper of a robot arm. The first
                n_context - 1 lead from one context frame to the next. Action-free: A is 0.
            generator: Samples the latents; None: the prior mean.
            depth: Number of modules to use; None: all.

        Yields:
            T times (N, 3, px, px) in [0, 1]: the frame after each action that follows the context.
        """
        steps = self.unroll(context, actions, generator, depth)
        while True:
            with torch.no_grad():
                frame = next(steps, None)
            if frame is None:
                return
            yield frame

    def rollout(
        self, context: Tensor, actions: Tensor, generator: torch.Generator | None = None, depth: int | None = None
    ) -> Tensor:
        """Return the T predicted frames (N, T, 3, px, px) in [0, 1]; arguments as in `predict`."""
        return torch.stack(list(self.predict(context, actions, generator, depth)), 1)

    def check_request(self, context: Tensor, actions: Tensor, depth: int | None) -> int:
        """Return the number of modules to use.

        Raises:
            ValueError: Context, actions or depth do not fit `predict`.
        """
        n, n_context = len(actions), context.shape[1]
        if len(context) not in (1, n) or actions.shape[1] < n_context:
            raise ValueError(
                f"expected 1 or {n} contexts and at least {n_context} actions per sequence, "
                f"got {len(context)} and {actions.shape[1]}"
            )
        if actions.shape[2] != self.config.action_dim:
            raise ValueError(f"expected actions of {self.config.action_dim} numbers, got {actions.shape[2]}")
        depth = self.n_modules if depth is None else depth
        if not 1 <= depth <= self.n_modules:
            raise ValueError(f"depth: expected 1 to {self.n_modules} modules, got {depth}")
        return depth


def draw(mean: Tensor, std: Tensor | float, generator: torch.Generator | None) -> Tensor:
    """Return a sample of N(mean, std^2), identical on all devices; without a generator the mean."""
    if generator is None:
        return mean
    noise = torch.randn(mean.shape, generator=generator, device=generator.device).to(mean.device)
    return mean + std * noise
