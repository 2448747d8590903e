"""What is minimised: the bound (eq. 2), greedily or end to end, two optional refinements, and the bound of the rival.

The likelihood is that of pixels: the loss reaches module k through the frozen decoders k - 1 .. 1. It is the squared
error averaged over pixels and frames plus beta times the KL summed over the latent and the steps; in this normalisation
beta = 1e-6 equals a Gaussian pixel noise of sigma = sqrt(12288 * 11 * 1e-6 / 2) = 0.26 for 11 steps of a 64x64 image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from configs.loader import Config
from ghvae_core.models.ghvae import Ghvae
from ghvae_core.models.layers import Gaussian, gaussian
from ghvae_core.models.svg import Svg

Kind = Literal[
    "module", "end_to_end", "prior_finetune", "rollout"
]  # of a stage: what it minimises, and by which weights


class ObjectiveConfig(Config):
    """Weights of the loss terms."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"warm_up_share": "warmup_fraction"}

    beta: float = Field(default=1e-6, ge=0)  # of the KL; ours, the paper gives none
    # How much more the prior is drawn to the posterior than the posterior to the prior; 1 is the paper's bound. The
    # prior alone predicts at test, and it was the measured bottleneck.
    prior_emphasis: float = Field(default=1.0, ge=1)
    warmup_fraction: float = Field(default=0.5, ge=0, le=1)  # of a module's steps in which beta rises from 0; ours:
    # without it the posterior collapsed and the prior ignored the actions


Weights = tuple[float, float]  # beta as the posterior feels it, and as the prior does


class Loss(NamedTuple):
    """A loss and its parts; scalars."""

    total: Tensor
    mse: Tensor  # averaged over pixels and frames, images in [0, 1]
    kl: Tensor  # nats a sequence, summed over its steps


@dataclass(frozen=True)
class Batch:
    """B sequences of T steps, time folded into the batch, oldest first."""

    frames: Tensor  # ((T + 1) * B, 3, px, px) float32 in [0, 1], channels last in memory
    actions: Tensor  # (T * B, A) raw
    n_steps: int  # T
    lower: tuple[Tensor, ...] = ()  # cached h^j .. h^{k-1}, each ((T + 1) * B, C, H, W); those before are computed
    first: int = 0  # place of the first sequence in the whole batch of a step, of which this may be a part
    n_whole: int = 0  # sequences in the whole batch; 0: this is all of it

    @classmethod
    def of(cls, frames: NDArray[np.uint8], actions: NDArray[np.float32], device: str) -> Batch:
        """Return a batch of frames (T + 1, B, px, px, 3) and actions (T, B, A), as they lie on disk."""
        pixels, numbers = torch.from_numpy(frames), torch.from_numpy(actions)
        if device != "cpu":  # the copy then runs beside what the device is computing
            pixels, numbers = pixels.pin_memory(), numbers.pin_memory()
        images = pixels.to(device, non_blocking=True).flatten(0, 1).permute(0, 3, 1, 2)
        n_steps = len(actions)
        return cls(images.float().div_(255), numbers.to(device, non_blocking=True).flatten(0, 1), n_steps)

    @property
    def n_sequences(self) -> int:
        """B."""
        return len(self.actions) // self.n_steps

    def noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Return normal noise of the shape (S * B, ...) of `like`, S steps, oldest first.

        It is drawn for the whole batch of a step, so each sequence gets the same however the batch is divided.
        """
        n, shape = self.n_sequences, like.shape[1:]
        whole = (len(like) // n, self.n_whole or n, *shape)
        noise = torch.randn(whole, generator=generator, device=generator.device)
        return noise[:, self.first : self.first + n].to(like.device).flatten(0, 1)

    def sequences(self) -> tuple[Tensor, Tensor]:
        """Return frames (B, T + 1, 3, px, px) and actions (B, T, A)."""
        n = self.n_sequences
        frames = self.frames.view(self.n_steps + 1, n, *self.frames.shape[1:]).transpose(0, 1)
        return frames, self.actions.view(self.n_steps, n, self.actions.shape[1]).transpose(0, 1)


def kl_divergence(mean: Tensor, log_variance: float | Tensor, prior: Gaussian) -> Tensor:
    """Return KL(N(mean, exp(log_variance)) || prior) for each element, in nats."""
    variance = math.exp(log_variance) if isinstance(log_variance, float) else log_variance.exp()
    difference = (mean - prior.mean) ** 2 + variance
    return 0.5 * (prior.log_variance - log_variance + difference * torch.exp(-prior.log_variance) - 1)


def module_loss(model: Ghvae, k: int, batch: Batch, weights: Weights, generator: torch.Generator | None) -> Loss:
    """Return the negative bound of module k on real frames (teacher forcing), all lower modules frozen (eq. 2).

    Args:
        model: Only module k's parameters should require gradients.
        k: From 1.
        batch: All T transitions count.
        weights: beta as the posterior feels it, and as the prior does.
        generator: Draws z from the posterior; None takes its mean.

    Returns:
        The bound with the posterior's beta; the prior's emphasis is in the gradient alone.
    """
    return _bound(model, _latent_stats(model, k, batch), batch, weights, generator)


def end_to_end_loss(model: Ghvae, k: int, batch: Batch, weights: Weights, generator: torch.Generator | None) -> Loss:
    """Return the same bound with nothing frozen: the gradient reaches the encoders and decoders of all k modules.

    Arguments as in `module_loss` (paper's ablation 4).
    """
    lower = model.encode(batch.frames, k - 1)
    return _bound(model, _latent_stats(model, k, replace(batch, lower=tuple(lower))), batch, weights, generator)


def prior_loss(model: Ghvae, k: int, batch: Batch) -> Loss:
    """Return module k's KL alone: coordinate ascent on the same bound, for the prior ("prior polish")."""
    stats = _latent_stats(model, k, batch)
    mean, prior = stats.mean, stats.prior
    kl = kl_divergence(mean.detach(), 2 * math.log(model.config.posterior_std), prior).sum() / batch.n_sequences
    return Loss(kl, kl.new_zeros(()), kl.detach())


def rollout_loss(model: Ghvae, k: int, batch: Batch, n_context: int) -> Loss:
    """Return the error of imagined frames, the first k modules fed with their own predictions.

    It goes beyond the paper: the prior's mean is rolled out as the planner will, and the error flows back through time.
    """
    frames, actions = batch.sequences()
    imagined = torch.stack(list(model.unroll(frames[:, :n_context], actions, depth=k)), 1)
    mse = functional.mse_loss(imagined, frames[:, n_context:])
    return Loss(mse, mse, mse.new_zeros(()))


def svg_loss(model: Svg, batch: Batch, beta: float | Tensor, generator: torch.Generator | None) -> Loss:
    """Return the negative bound on real frames (teacher forcing), z from the posterior, in the same normalisation.

    Args:
        model: Trained as a whole.
        batch: All T transitions count. Until the last context frame a frame's own skip connections are used, from then
            on those of that one, as when imagining.
        beta: Weight of the KL of posterior and learned prior. The published 1e-4 beside errors summed over 11 steps are
            9e-6 beside their average.
        generator: Draws z; None takes the posterior's mean.
    """
    n, n_steps = batch.n_sequences, batch.n_steps
    features, skips = model.encoder(batch.frames)  # of T + 1 steps
    told = model.with_actions(features[:-n], batch.actions)
    prior = gaussian(model.prior(told, n_steps, None)[0])
    posterior = gaussian(model.posterior(features[n:], n_steps, None)[0])
    z = posterior.mean
    if generator is not None:
        z = z + (0.5 * posterior.log_variance).exp() * batch.noise(z, generator)
    predicted, _ = model.next_features(told, z, n_steps)
    sources = [min(t, model.config.n_context - 1) for t in range(n_steps)]
    held = [torch.cat([steps[t] for t in sources]) for steps in (skip.chunk(n_steps + 1) for skip in skips)]
    mse = functional.mse_loss(model.decoder(predicted, held), batch.frames[n:])
    kl = kl_divergence(posterior.mean, posterior.log_variance, prior).sum() / n
    return Loss(mse + beta * kl, mse, kl.detach())


class LatentStats(NamedTuple):
    """What module k makes of a batch."""

    features: list[Tensor]  # h_t^1 .. h_t^k of steps 0 .. T-1
    mean: Tensor  # of the posterior of z_{t+1}
    prior: Gaussian  # of z_{t+1}


def _latent_stats(model: Ghvae, k: int, batch: Batch) -> LatentStats:
    with torch.no_grad():
        lower = [*model.encode(batch.frames, k - 1 - len(batch.lower)), *batch.lower]
    encoder, n = model.module(k).encoder, len(batch.actions)
    below = _watched(lower[-1], encoder) if k > 1 else batch.frames
    h = _watched(encoder(below), model.module(k).prior)
    mean = model.module(k).posterior(h[batch.n_sequences :], batch.n_steps)
    prior, _ = model.prior(h[:n], batch.actions, k, batch.n_steps)
    return LatentStats([each[:n] for each in (*lower, h)], mean, prior)


def _bound(
    model: Ghvae,
    stats: LatentStats,
    batch: Batch,
    weights: Weights,
    generator: torch.Generator | None,
) -> Loss:
    mean, prior, std, n = stats.mean, stats.prior, model.config.posterior_std, batch.n_sequences
    z = mean if generator is None else mean + std * batch.noise(mean, generator)
    mse = functional.mse_loss(model.decode(z, stats.features), batch.frames[n:])
    width, held = 2 * math.log(std), Gaussian(prior.mean.detach(), prior.log_variance.detach())
    kl_posterior = kl_divergence(mean, width, held).sum() / n
    kl_prior = kl_divergence(mean.detach(), width, prior).sum() / n
    gradient_alone = kl_prior - kl_prior.detach()
    return Loss(mse + weights[0] * kl_posterior + weights[1] * gradient_alone, mse, kl_prior.detach())


def _watched(x: Tensor, network: nn.Module) -> Tensor:
    """Return x, with a gradient that nobody reads where `network` is trained.

    GroupNorm's backward in torch 2.13 (CPU, channels last) crashes where its weights need a gradient and its input
    does not.
    """
    is_trained = torch.is_grad_enabled() and next(network.parameters()).requires_grad
    return x.detach().requires_grad_() if is_trained and not x.requires_grad else x
