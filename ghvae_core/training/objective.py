"""Training losses: the bound (eq. 2), greedy or end to end, two optional refinements, and the bounds of the baselines.

The likelihood is that of pixels: the gradient reaches module k through the frozen decoders k - 1 .. 1. The loss is the
squared error averaged over pixels and frames plus beta times the KL summed over the latent and the steps. In this
normalisation beta = 1e-6 equals a Gaussian pixel noise of sigma = sqrt(12288 * 11 * 1e-6 / 2) = 0.26 for 11 steps of a
64x64 image. A further term is 1 - SSIM of the frames (Wang et al. 2004; as a loss: Zhao et al. 2017): in it edges and
texture of low contrast, which hardly change the squared error, count as much as those of high contrast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from configs.loader import Config
from ghvae_core.models.ghvae import Ghvae
from ghvae_core.models.hier_vrnn import HierVrnn
from ghvae_core.models.layers import Gaussian, gaussian, require_gradient
from ghvae_core.models.ssim import ssim_map
from ghvae_core.models.svg import Svg
from ghvae_core.models.video_model import VideoModel

Kind = Literal["module", "end_to_end", "prior_finetune", "rollout"]  # of a stage: its loss and its trained weights


class ObjectiveConfig(Config):
    """Weights of the loss terms."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"warm_up_share": "warmup_fraction"}

    beta: float = Field(default=1e-7, ge=0)  # of the KL; ours, the paper gives none
    # Of 1 - SSIM in windows of 5 pixels of the frames and of the frames at half the size; ours. 0: the paper's bound
    ssim_weight: float = Field(default=0.03, ge=0)
    # Weight of the KL in the gradient of the prior, relative to that of the posterior; 1: the bound of the paper. The
    # prior alone predicts at test time, and was the measured bottleneck.
    prior_emphasis: float = Field(default=1.0, ge=1)
    warmup_fraction: float = Field(
        default=0.5, ge=0, le=1
    )  # of the steps of a stage, in which beta rises from 0; ours:
    # without it the posterior collapsed and the prior ignored the actions


_SSIM_WINDOW_PX = 5  # ours
_SSIM_SCALES = 2  # whole and half size; ours


class Weights(NamedTuple):
    """Weights of the loss terms at a step."""

    posterior: float  # of the KL in the gradient of the posterior, and in the value
    prior: float  # of the KL in the gradient of the prior
    ssim: float = 0.0  # of 1 - SSIM


NO_WEIGHTS = Weights(0.0, 0.0)  # the squared error alone


class Loss(NamedTuple):
    """A loss and its terms; scalars."""

    total: Tensor
    mse: Tensor  # averaged over pixels and frames, images in [0, 1]
    kl: Tensor  # nats per sequence, summed over its steps


@dataclass(frozen=True)
class Batch:
    """B sequences of T steps, time folded into the batch, oldest first."""

    frames: Tensor  # ((T + 1) * B, 3, px, px) float32 in [0, 1], channels last in memory
    actions: Tensor  # (T * B, A) raw
    n_steps: int  # T
    lower: tuple[Tensor, ...] = ()  # cached h^j .. h^{k-1}, each ((T + 1) * B, C, H, W); lower ones are computed
    first: int = 0  # index of the first sequence in the batch of the step, of which this may be a part
    n_total: int = 0  # sequences in the batch of the step; 0: as many as here
    n_decoded: int = 0  # steps of each sequence whose frames are decoded in training; 0: all

    @classmethod
    def of(cls, frames: NDArray[np.uint8], actions: NDArray[np.float32], device: str) -> Batch:
        """Return a batch of frames (T + 1, B, px, px, 3) and actions (T, B, A), as they are stored."""
        pixels, numbers = torch.from_numpy(frames), torch.from_numpy(actions)
        if device != "cpu":  # for a copy during computation
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

        It is drawn for the whole batch of a step, so that it does not depend on the division of the batch.
        """
        n, shape = self.n_sequences, like.shape[1:]
        whole = (len(like) // n, self.n_total or n, *shape)
        noise = torch.randn(whole, generator=generator, device=generator.device)
        return noise[:, self.first : self.first + n].to(like.device).flatten(0, 1)

    def sources(self, n_context: int) -> list[Tensor]:
        """Return for each transition the latest context frame (x_t or the last one) and the one before it.

        Each is (T * B, 3, px, px); before the first frame there is only itself.
        """
        steps = self.frames.chunk(self.n_steps + 1)
        latest = [min(t, n_context - 1) for t in range(self.n_steps)]
        return [torch.cat([steps[max(0, t - back)] for t in latest]) for back in (0, 1)]

    def decoded(self, generator: torch.Generator | None, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the transitions of (T * B, ...) tensors whose frames are decoded: `n_decoded` of each sequence.

        They are drawn for the whole batch of a step, so that they do not depend on the division of the batch.
        Without a generator, or if all are decoded, the tensors are returned.
        """
        if generator is None or not 0 < self.n_decoded < self.n_steps:
            return list(tensors)
        n = self.n_sequences
        order = torch.rand((self.n_steps, self.n_total or n), generator=generator, device=generator.device).argsort(0)
        steps = order[: self.n_decoded, self.first : self.first + n]
        kept = (steps * n + torch.arange(n, device=steps.device)).flatten().to(self.frames.device)
        return [tensor[kept].contiguous(memory_format=torch.channels_last) for tensor in tensors]

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
        batch: The KL is that of all T transitions, the error that of the decoded ones.
        weights: beta of the posterior and of the prior, and the weight of 1 - SSIM.
        generator: Samples z from the posterior; None: its mean.

    Returns:
        The bound with the beta of the posterior; the emphasis on the prior affects only the gradient.
    """
    return _bound(model, _latent_stats(model, k, batch), batch, weights, generator)


def end_to_end_loss(model: Ghvae, k: int, batch: Batch, weights: Weights, generator: torch.Generator | None) -> Loss:
    """Return the same bound with nothing frozen: gradients of the encoders and decoders of all k modules.

    Arguments as in `module_loss` (paper's ablation 4).
    """
    lower = model.encode(batch.frames, k - 1)
    return _bound(model, _latent_stats(model, k, replace(batch, lower=tuple(lower))), batch, weights, generator)


def prior_loss(model: Ghvae, k: int, batch: Batch) -> Loss:
    """Return the KL of module k alone, to fine-tune the prior: coordinate ascent on the same bound."""
    stats = _latent_stats(model, k, batch)
    mean, prior = stats.mean, stats.prior
    kl = kl_divergence(mean.detach(), 2 * math.log(model.config.posterior_std), prior).sum() / batch.n_sequences
    return Loss(kl, kl.new_zeros(()), kl.detach())


def rollout_loss(model: Ghvae, k: int, batch: Batch, n_context: int, ssim_weight: float = 0.0) -> Loss:
    """Return the error of frames predicted by the first k modules from their own predictions.

    Beyond the paper: the prior mean is rolled out as in planning, with backpropagation through time.
    """
    frames, actions = batch.sequences()
    predicted = torch.stack(list(model.unroll(frames[:, :n_context], actions, depth=k)), 1)
    error, mse = _frame_errors(predicted.flatten(0, 1), frames[:, n_context:].flatten(0, 1), ssim_weight)
    return Loss(error, mse, mse.new_zeros(()))


def svg_loss(model: Svg, batch: Batch, weights: Weights, generator: torch.Generator | None) -> Loss:
    """Return the negative bound on real frames (teacher forcing), z from the posterior, in the same normalisation.

    Args:
        model: All parameters are trained.
        batch: As in `module_loss`. Up to the last context frame, skip connections are those of each frame, then
            those of the last context frame, as in prediction.
        weights: That of the posterior for the KL of posterior and learned prior, and that of 1 - SSIM. The published
            beta of 1e-4 with errors summed over 11 steps is 9e-6 with their average.
        generator: Samples z; None: the posterior mean.
    """
    n, n_steps = batch.n_sequences, batch.n_steps
    features, skips = model.encoder(batch.frames)  # of T + 1 steps
    inputs = model.with_actions(features[:-n], batch.actions)
    prior = gaussian(model.prior(inputs, n_steps, None)[0])
    posterior = gaussian(model.posterior(features[n:], n_steps, None)[0])
    z = posterior.mean
    if generator is not None:
        z = z + (0.5 * posterior.log_variance).exp() * batch.noise(z, generator)
    predicted, _ = model.next_features(inputs, z, n_steps)
    sources = [min(t, model.config.n_context - 1) for t in range(n_steps)]
    held = [torch.cat([steps[t] for t in sources]) for steps in (skip.chunk(n_steps + 1) for skip in skips)]
    target, predicted, *held = batch.decoded(generator, [batch.frames[n:], predicted, *held])
    error, mse = _frame_errors(model.decoder(predicted, held), target, weights.ssim)
    kl = kl_divergence(posterior.mean, posterior.log_variance, prior).sum() / n
    return Loss(error + weights.posterior * kl, mse, kl.detach())


def hier_vrnn_loss(model: HierVrnn, batch: Batch, weights: Weights, generator: torch.Generator | None) -> Loss:
    """Return the negative bound on the frames after the context (teacher forcing), in the same normalisation.

    Args:
        model: All parameters are trained.
        batch: Its first n_context frames are the context, which initialises the recurrent states.
        weights: As in `svg_loss`; the KL is summed over the levels.
        generator: Samples the latents; None: the posterior means.
    """
    n, first = batch.n_sequences, batch.n_sequences * model.config.n_context
    encoded = model.encoder(batch.frames)  # of T + 1 steps
    context, present, following = (
        [features[steps] for features in encoded] for steps in (slice(first), slice(first - n, -n), slice(first, None))
    )
    actions, states = model.scaled(batch.actions[first - n :]), model.initial_states(context)

    def sample(_: int, latent: Gaussian) -> Tensor:
        if generator is None:
            return latent.mean
        return latent.mean + (0.5 * latent.log_variance).exp() * batch.noise(latent.mean, generator)

    posteriors, latents, _ = model.posterior(following, actions, sample, states=model.posterior.initial(context))
    priors, _, _ = model.prior(present, actions, lambda level, _: latents[level], states=states.prior)
    decoded, _ = model.decoder(present, latents, actions, states=states.decoder)
    error, mse = _frame_errors(decoded, batch.frames[first:], weights.ssim)
    divergences = [kl_divergence(q.mean, q.log_variance, p).sum() for q, p in zip(posteriors, priors, strict=True)]
    kl = torch.stack(divergences).sum() / n
    return Loss(error + weights.posterior * kl, mse, kl.detach())


def baseline_loss(model: VideoModel, batch: Batch, weights: Weights, generator: torch.Generator | None) -> Loss:
    """Return the loss of a model that is not a GHVAE; arguments as in `svg_loss`."""
    if isinstance(model, Svg):
        return svg_loss(model, batch, weights, generator)
    assert isinstance(model, HierVrnn)  # noqa: S101 - there are three kinds
    return hier_vrnn_loss(model, batch, weights, generator)


class LatentStats(NamedTuple):
    """Features and latent distributions of module k on a batch."""

    features: list[Tensor]  # h_t^1 .. h_t^k of steps 0 .. T-1
    mean: Tensor  # of the posterior of z_{t+1}
    prior: Gaussian  # of z_{t+1}


def _latent_stats(model: Ghvae, k: int, batch: Batch) -> LatentStats:
    with torch.no_grad():
        lower = [*model.encode(batch.frames, k - 1 - len(batch.lower)), *batch.lower]
    encoder, n = model.module(k).encoder, len(batch.actions)
    below = require_gradient(lower[-1], encoder) if k > 1 else batch.frames
    h = require_gradient(encoder(below), model.module(k).prior)
    mean = model.module(k).posterior(h[batch.n_sequences :], batch.n_steps)
    seen, given = model.prior_features(h[:n], batch.n_steps), model.prior_actions(batch.actions, batch.n_steps)
    prior, _ = model.prior(seen, given, k, batch.n_steps)
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
    sources = batch.sources(model.config.n_context)
    target, z, *inputs = batch.decoded(generator, [batch.frames[n:], z, *stats.features, *sources])
    predicted = model.decode(z, inputs[: -len(sources)], inputs[-len(sources) :])
    error, mse = _frame_errors(predicted, target, weights.ssim)
    width, held = 2 * math.log(std), Gaussian(prior.mean.detach(), prior.log_variance.detach())
    kl_posterior = kl_divergence(mean, width, held).sum() / n
    kl_prior = kl_divergence(mean.detach(), width, prior).sum() / n
    gradient_alone = kl_prior - kl_prior.detach()
    return Loss(error + weights.posterior * kl_posterior + weights.prior * gradient_alone, mse, kl_prior.detach())


def _frame_errors(predicted: Tensor, target: Tensor, ssim_weight: float) -> tuple[Tensor, Tensor]:
    """Return the squared error with the weighted 1 - SSIM, and without, of frames (N, 3, px, px) in [0, 1]."""
    mse = functional.mse_loss(predicted, target)
    if not ssim_weight:
        return mse, mse
    dissimilarities = []
    for scale in range(_SSIM_SCALES):
        x, y = (functional.avg_pool2d(frames, 2**scale) for frames in (predicted.float(), target))
        window_px = min(_SSIM_WINDOW_PX, x.shape[-1])
        similarity = ssim_map(x, y, partial(_window_means, window_px=window_px))
        dissimilarities.append(1 - similarity.mean())
    return mse + ssim_weight * torch.stack(dissimilarities).mean(), mse


def _window_means(images: Tensor, window_px: int) -> Tensor:
    """Return the mean of each square window of images; on a CPU in less time than avg_pool2d."""
    rows, columns = (n - window_px + 1 for n in images.shape[-2:])
    summed = torch.stack([images[..., i : i + rows, :] for i in range(window_px)]).sum(0)
    return torch.stack([summed[..., i : i + columns] for i in range(window_px)]).sum(0) / window_px**2
