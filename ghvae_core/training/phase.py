"""One stage's loss as a network: what it trains, and, called on a batch, what it minimises."""

from __future__ import annotations

import torch
from torch import nn

from ghvae_core.models.ghvae import Ghvae
from ghvae_core.models.svg import Svg
from ghvae_core.models.video_model import VideoModel
from ghvae_core.training.objective import (
    Batch,
    Loss,
    ObjectiveConfig,
    end_to_end_loss,
    module_loss,
    prior_loss,
    rollout_loss,
    svg_loss,
)
from ghvae_core.training.stages import Stage, TrainingConfig


class Phase(nn.Module):
    """A model in one stage; all but what the stage trains is frozen bit for bit."""

    def __init__(
        self, model: VideoModel, stage: Stage, training: TrainingConfig, objective: ObjectiveConfig, n_context: int
    ) -> None:
        """Freeze what the stage does not train."""
        super().__init__()
        self.model = model
        self._stage, self._objective, self._n_context = stage, objective, n_context
        self._is_half = training.precision == "bfloat16"
        model.requires_grad_(False)
        for parameter in trained_parameters(model, stage):
            parameter.requires_grad_(True)

    def forward(self, batch: Batch, step: int, generator: torch.Generator) -> Loss:
        """Return the loss of a batch at a step, counted from 0."""
        with autocast(self.model, self._is_half):
            return self._loss(batch, self._beta(step), generator)

    def _beta(self, step: int) -> float:
        """Return the weight of the KL: it rises from 0."""
        warm_up = self._objective.warm_up_share * self._stage.n_steps
        return self._objective.beta * (min(1.0, step / warm_up) if warm_up else 1.0)

    def _loss(self, batch: Batch, beta: float, generator: torch.Generator) -> Loss:
        model, k = self.model, self._stage.k
        if isinstance(model, Svg):
            return svg_loss(model, batch, beta, generator)
        assert isinstance(model, Ghvae)  # noqa: S101 - the plan was checked
        if self._stage.kind == "polish":
            return prior_loss(model, k, batch)
        if self._stage.kind == "rollout":
            return rollout_loss(model, k, batch, self._n_context)
        bound = end_to_end_loss if self._stage.kind == "end_to_end" else module_loss
        return bound(model, k, batch, (beta, beta * self._objective.prior_emphasis), generator)


def autocast(model: VideoModel, is_half: bool) -> torch.autocast:
    """Return the context in which networks compute in bfloat16, or, where it is not wanted, in float32."""
    return torch.autocast(model.action_scale.device.type, torch.bfloat16, enabled=is_half)


def trained_parameters(model: VideoModel, stage: Stage) -> list[nn.Parameter]:
    """Return the parameters that a stage trains, and no others: each of them gets a gradient."""
    if not isinstance(model, Ghvae):
        return list(model.parameters())
    deepest = model.module(stage.k)
    prior = list(deepest.prior.parameters()) if model.config.prior == "learned" else []
    if stage.kind == "polish":
        return prior
    posterior = list(deepest.posterior.parameters()) if stage.kind != "rollout" else []
    own = [*deepest.decoder.project.parameters(), *prior, *posterior]
    first = stage.k if stage.kind == "module" else 1
    for k in range(first, stage.k + 1):
        module = model.module(k)
        # What a decoder is fed while its module is the deepest one is not called any more afterwards.
        chain = [module.encoder, module.decoder.blocks, module.decoder.up, module.decoder.refine, module.pixels]
        own += [parameter for part in chain if part is not None for parameter in part.parameters()]
    return own


def teacher_forced(model: VideoModel, k: int, batch: Batch) -> Loss:
    """Return the error of the next frame from the real one before it and the posterior's mean, and the KL."""
    if isinstance(model, Svg):
        return svg_loss(model, batch, 0.0, None)
    assert isinstance(model, Ghvae)  # noqa: S101 - there is no third kind
    return module_loss(model, k, batch, (0.0, 0.0), None)
