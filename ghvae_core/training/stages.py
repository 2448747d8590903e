"""The stages of a training run: their settings, their order, the parameters that they train, and their losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from configs.loader import Config, ConfigError
from ghvae_core.models.ghvae import Ghvae, GhvaeConfig
from ghvae_core.models.video_model import ModelConfig, VideoModel
from ghvae_core.training.objective import (
    NO_WEIGHTS,
    Batch,
    Kind,
    Loss,
    ObjectiveConfig,
    Weights,
    baseline_loss,
    end_to_end_loss,
    module_loss,
    prior_loss,
    rollout_loss,
)

# Settings that do not change the result of a run, and may differ when it is resumed.
OPERATIONAL = {"save_every_s", "feature_cache", "feature_cache_limit_gb", "checks"}


class TrainingConfig(Config):
    """Length, learning rates and resources of a training run."""

    renamed_keys: ClassVar[Mapping[str, str]] = {
        "polish_steps": "prior_finetune_steps",
        "ramp_steps": "lr_warmup_steps",
        "final_rate_share": "final_rate_fraction",
    }

    # Of modules 1, 2, ...; the last number applies to all further modules. 0 keeps the weights of `--init`.
    module_steps: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    # All modules at once (paper's ablation 4): after the greedy stages, or instead of them if module_steps is [0]
    end_to_end_steps: int = Field(default=0, ge=0)
    prior_finetune_steps: int = Field(default=0, ge=0)  # of the deepest prior alone, with the same bound as the paper
    # Rollouts with backpropagation through time; beyond the paper. 0: none
    rollout_steps: int = Field(default=0, ge=0)
    # Modules that rollouts train: the deepest, with all others frozen as in greedy training, or all; ours
    rollout_modules: Literal["deepest", "all"] = "deepest"
    # Steps of each window whose frames are decoded in a training step, chosen at random: an unbiased estimate of the
    # same loss for less time. None: all, as in the paper. Not used in rollouts and by Hier-VRNN, which need all
    decoded_steps: int | None = Field(default=None, ge=1)
    batch_windows: int = Field(default=16, ge=1)  # paper: 32; 16 learns more in an hour on a CPU
    accumulation_steps: int = Field(default=1, ge=1)  # parts of batch_windows that are processed in sequence; ours
    learning_rate: float = Field(default=1e-3, gt=0)  # of Adam; FitVid
    # None: a tenth of learning_rate after greedy training, learning_rate from scratch; ours
    end_to_end_learning_rate: float | None = Field(default=None, gt=0)
    rollout_learning_rate: float = Field(default=3e-4, gt=0)  # ours
    clip_norm: float = Field(default=100.0, gt=0)  # of the gradient norm; FitVid
    rollout_clip_norm: float = Field(default=1.0, gt=0)  # gradients through time are larger; ours
    lr_warmup_steps: int = Field(default=50, ge=1)  # linear, at the start of each stage; ours
    final_rate_fraction: float = Field(default=0.05, gt=0, le=1)  # of the learning rate at the end of the cosine; ours
    # Of the moving average of the trained weights, which replaces them at the end of a stage; 0: none; ours
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["float32", "bfloat16"] = "float32"  # of the networks; losses are always float32
    shard: bool = False  # shard the end-to-end stage over all processes (FSDP2)
    validation_windows: int = Field(default=128, ge=2)  # ours
    # After a stage whose model fails a check of `ValidationMetrics`: end with an error, or warn and continue; ours
    checks: Literal["fail", "warn"] = "fail"
    save_every_s: float = Field(default=120.0, gt=0)  # at most 5 % of the time is spent on saving; ours
    # Features of frozen encoders (paper 2): computed at every step (off), cached (all), cached except those of module
    # 1, which are the largest and the cheapest to compute (deep), or the fastest of these as measured (auto)
    feature_cache: Literal["off", "deep", "all", "auto"] = "auto"
    feature_cache_limit_gb: float = Field(
        default=8.0, ge=0
    )  # in memory; a larger cache is kept in files of the run; ours

    @model_validator(mode="after")
    def _check_steps(self) -> TrainingConfig:
        if not any((*self.module_steps, self.end_to_end_steps, self.prior_finetune_steps, self.rollout_steps)):
            raise ValueError("expected steps above 0 for at least one stage, got 0 for all")
        if self.batch_windows % self.accumulation_steps:
            raise ValueError(
                f"accumulation_steps: expected a divisor of batch_windows {self.batch_windows}, "
                f"got {self.accumulation_steps}"
            )
        return self

    def steps_of(self, k: int) -> int:
        """Return the number of steps of module k, counted from 1."""
        return self.module_steps[min(k, len(self.module_steps)) - 1]


@dataclass(frozen=True)
class TrainingStage:
    """A part of the training with fixed trained parameters and a loss."""

    name: str
    kind: Kind
    first: int  # the first module whose encoder and decoder are trained
    k: int  # the deepest module in use
    n_steps: int
    rate: float  # maximal learning rate
    rate_key: str  # field of TrainingConfig that sets it
    clip_norm: float  # of the gradient

    def rate_at(self, step: int, config: TrainingConfig) -> float:
        """Return the learning rate of a step, from 0: linear warm-up, then a cosine to `final_rate_fraction`."""
        floor = config.final_rate_fraction
        cosine = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / self.n_steps))
        return self.rate * min(1.0, (step + 1) / config.lr_warmup_steps) * cosine


def stages(config: TrainingConfig, n_modules: int, from_scratch: bool = False) -> list[TrainingStage]:
    """Return the stages of a run; stages of 0 steps are left out.

    Args:
        config: Number of steps of each stage.
        n_modules: Number of modules of the model.
        from_scratch: The model has random weights; decides the default learning rate of the end-to-end stage.
    """
    rate, clip_norm = config.learning_rate, config.clip_norm
    plan = [
        TrainingStage(f"module_{k}", "module", k, k, config.steps_of(k), rate, "learning_rate", clip_norm)
        for k in range(1, n_modules + 1)
    ]
    is_first = from_scratch and not any(stage.n_steps for stage in plan)
    end_rate = config.end_to_end_learning_rate or (rate if is_first else rate / 10)
    key, n_steps = "end_to_end_learning_rate", config.end_to_end_steps
    plan.append(TrainingStage("end_to_end", "end_to_end", 1, n_modules, n_steps, end_rate, key, clip_norm))
    key, n_steps = "learning_rate", config.prior_finetune_steps
    plan.append(TrainingStage("prior_finetune", "prior_finetune", n_modules, n_modules, n_steps, rate, key, clip_norm))
    first = 1 if config.rollout_modules == "all" else n_modules
    key, rate, clip_norm = "rollout_learning_rate", config.rollout_learning_rate, config.rollout_clip_norm
    plan.append(TrainingStage("rollout", "rollout", first, n_modules, config.rollout_steps, rate, key, clip_norm))
    return [stage for stage in plan if stage.n_steps]


def check_plan(plan: list[TrainingStage], model: ModelConfig) -> None:
    """Refuse stages that the kind of model does not support.

    Raises:
        ConfigError: The message names them.
    """
    greedy = [stage.name for stage in plan if stage.kind != "end_to_end"]
    if not isinstance(model, GhvaeConfig) and greedy:
        raise ConfigError(
            f"training: expected end_to_end_steps alone, as this model has no modules, "
            f"got the stages {greedy}; set module_steps=[0], prior_finetune_steps=0 and rollout_steps=0"
        )


class StageLoss(nn.Module):
    """The loss of a model in one stage; parameters that the stage does not train are frozen."""

    def __init__(
        self,
        model: VideoModel,
        stage: TrainingStage,
        training: TrainingConfig,
        objective: ObjectiveConfig,
        n_context: int,
    ) -> None:
        """Freeze the parameters that the stage does not train."""
        super().__init__()
        self.model = model
        self._stage, self._objective, self._n_context = stage, objective, n_context
        self._is_half, self._n_decoded = training.precision == "bfloat16", training.decoded_steps or 0
        model.requires_grad_(False)
        for parameter in trained_parameters(model, stage):
            parameter.requires_grad_(True)

    def forward(self, batch: Batch, step: int, generator: torch.Generator) -> Loss:
        """Return the loss of a batch at a step, counted from 0."""
        with autocast(self.model, self._is_half):
            return self._loss(replace(batch, n_decoded=self._n_decoded), self._weights(step), generator)

    def _weights(self, step: int) -> Weights:
        """Return the weights of the loss terms; that of the KL rises linearly from 0 during the warm-up."""
        warmup = self._objective.warmup_fraction * self._stage.n_steps
        beta = self._objective.beta * (min(1.0, step / warmup) if warmup else 1.0)
        return Weights(beta, beta * self._objective.prior_emphasis, self._objective.ssim_weight)

    def _loss(self, batch: Batch, weights: Weights, generator: torch.Generator) -> Loss:
        model, k = self.model, self._stage.k
        if not isinstance(model, Ghvae):
            return baseline_loss(model, batch, weights, generator)
        if self._stage.kind == "prior_finetune":
            return prior_loss(model, k, batch)
        if self._stage.kind == "rollout":
            return rollout_loss(model, k, batch, self._n_context, weights.ssim)
        bound = end_to_end_loss if self._stage.kind == "end_to_end" else module_loss
        return bound(model, k, batch, weights, generator)


def autocast(model: VideoModel, is_half: bool) -> torch.autocast:
    """Return the context in which networks compute in bfloat16 if `is_half`, else in float32."""
    return torch.autocast(model.action_scale.device.type, torch.bfloat16, enabled=is_half)


def trained_parameters(model: VideoModel, stage: TrainingStage) -> list[nn.Parameter]:
    """Return exactly the parameters that a stage trains; each of them gets a gradient."""
    if not isinstance(model, Ghvae):
        return list(model.parameters())
    deepest = model.module(stage.k)
    prior = list(deepest.prior.parameters()) if model.config.prior == "learned" else []
    if stage.kind == "prior_finetune":
        return prior
    posterior = list(deepest.posterior.parameters()) if stage.kind != "rollout" else []
    own = [*deepest.decoder.project.parameters(), *prior, *posterior]
    for k in range(stage.first, stage.k + 1):
        module = model.module(k)
        # `decoder.project` is used only while its module is the deepest one.
        decoder = [module.decoder.blocks, module.decoder.up, module.decoder.refine, module.pixels, module.masks]
        chain = [module.encoder, *decoder]
        own += [parameter for part in chain if part is not None for parameter in part.parameters()]
    return own


def teacher_forced(model: VideoModel, k: int, batch: Batch) -> Loss:
    """Return the error of the next frame, given the real previous frame and the posterior mean, and the KL."""
    if isinstance(model, Ghvae):
        return module_loss(model, k, batch, NO_WEIGHTS, None)
    return baseline_loss(model, batch, NO_WEIGHTS, None)
