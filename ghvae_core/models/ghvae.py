"""The Greedy Hierarchical VAE (Wu et al. 2021): K modules, each predicting the next frame through all shallower ones.

Symbols of the paper: x a frame, h^k the features of module k, z^k its latent, a an action, t the step. Modules count
from 1, the shallowest. Shapes: B sequences, T steps, N = T * B with the oldest step first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from configs.loader import Config
from ghvae_core.models.layers import (
    Decoder,
    Encoder,
    Gaussian,
    Posterior,
    Prior,
    RecurrentLatent,
    RecurrentState,
    SourceMasks,
    compose,
    copy_masks,
    require_gradient,
)
from ghvae_core.models.video_model import IMAGE_CHANNELS, ModelConfig, VideoModel, draw

_SUM_SCALE = 0.3  # of the sums of about ten actions, so that they are as large as one; ours


class ModuleConfig(Config):
    """The size of one module."""

    channels: int = Field(gt=0)  # of h^k; more than in the previous module (paper 2)
    latent: int = Field(gt=0)  # channels of z^k; fewer than h^k (paper 2)
    hidden: int = Field(gt=0)  # of the ConvLSTM in prior and posterior
    encoder_blocks: int = Field(ge=1)
    decoder_blocks: int = Field(ge=1)


class GhvaeConfig(ModelConfig):
    """Sizes and variants of a GHVAE. The paper gives no layer sizes; all are ours."""

    kind: Literal["ghvae"] = "ghvae"
    modules: tuple[ModuleConfig, ...] = Field(min_length=1)  # shallowest first; 6 in the paper's main results
    pixel_channels: int = Field(gt=0)  # of decoder 1 at image size
    prior: Literal["learned", "uniform"] = "learned"  # uniform: N(0, I), paper's ablation 3; ignores the actions
    # Frames on whose features the prior is conditioned: those of the context, of which the last is repeated in all
    # further steps, with the sum of their actions (ours), or all, in a rollout predicted ones (the paper)
    prior_frames: Literal["context", "all"] = "context"
    refine_latent: bool = True  # one more convolution in prior and posterior; ours
    # Frames from which decoder 1 can copy each pixel: the last two context frames, or none (0, the model of the paper);
    # ours. Never a predicted frame: the errors that are copied would add up
    copies: Literal[0, 2] = 2
    # Shares of the drawn colour below it are 0, see `layers.copy_masks`; without copies it has no effect. Value: ours
    mask_threshold: float = Field(default=0.15, ge=0, lt=1)
    posterior_std: float = Field(default=0.1, gt=0)  # constant (paper 2); value ours: with 1 the posterior collapsed

    @model_validator(mode="after")
    def _check_size(self) -> GhvaeConfig:
        k = self.n_modules
        if self.image_px % 2**k:
            raise ValueError(
                f"image_px must be divisible by 2^{k} = {2**k}, as each of {k} modules halves the image, "
                f"got {self.image_px}"
            )
        return self

    @property
    def n_modules(self) -> int:
        """Number of modules."""
        return len(self.modules)

    def up_to(self, depth: int) -> GhvaeConfig:
        """Return the configuration of the first `depth` modules."""
        return self.model_copy(update={"modules": self.modules[:depth]})

    @property
    def takes_actions(self) -> bool:
        """Whether predictions depend on actions, which are an input of the learned prior alone."""
        return self.action_dim > 0 and self.prior == "learned"

    def px(self, k: int) -> int:
        """Return the side of h^k; k = 0: the image."""
        return int(self.image_px // 2**k)


class GhvaeModule(nn.Module):
    """Module k: its encoder, decoder, prior and posterior."""

    def __init__(self, config: GhvaeConfig, k: int) -> None:
        super().__init__()
        size, px = config.modules[k - 1], config.px(k)
        above = config.modules[k - 2].channels if k > 1 else IMAGE_CHANNELS
        kernel = 3 if px > 1 else 1  # at 1x1 only the middle of a 3x3 kernel would be used
        outputs = above if k > 1 else config.pixel_channels
        self.encoder = Encoder(above, size.channels, size.encoder_blocks, px)
        self.decoder = Decoder(size.channels, outputs, size.latent, size.decoder_blocks, px)
        # No norm before the output: it would remove absolute colour.
        # Colours, and the masks of `compose`.
        heads = IMAGE_CHANNELS + (1 + config.copies if config.copies else 0)
        self.pixels = nn.Conv2d(outputs, heads, 3, padding=1) if k == 1 else None
        self.masks = SourceMasks(outputs, config.copies) if k == 1 and config.copies else None
        body = (size.channels, size.hidden, kernel)
        takes_sums = config.prior_frames == "context"
        latent = RecurrentLatent(*body, config.action_dim, config.refine_latent, takes_sums=takes_sums)
        self.prior = Prior(latent, size.hidden, size.latent)
        self.posterior = Posterior(RecurrentLatent(*body, 0, config.refine_latent), size.hidden, size.latent)


class Ghvae(VideoModel):
    """K modules. The first `depth` modules form a complete model; default: all."""

    config: GhvaeConfig

    def __init__(self, config: GhvaeConfig) -> None:
        super().__init__(config)
        self.levels = nn.ModuleList(GhvaeModule(config, k) for k in range(1, config.n_modules + 1))
        nn.Module.to(self, memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast on a CPU

    def module(self, k: int) -> GhvaeModule:
        """Return module k, counted from 1."""
        level = self.levels[k - 1]
        assert isinstance(level, GhvaeModule)  # noqa: S101 - for the type checker
        return level

    def encode(self, frames: Tensor, depth: int | None = None) -> list[Tensor]:
        """Return h^1 .. h^depth of frames (N, 3, px, px) in [0, 1]; h^k is (N, C_k, px / 2^k, px / 2^k)."""
        h = frames.contiguous(memory_format=torch.channels_last)
        features = []
        for k in range(1, (self.n_modules if depth is None else depth) + 1):
            encoder = self.module(k).encoder
            h = encoder(require_gradient(h, encoder) if k > 1 else h)
            features.append(h)
        return features

    def features(self, frames: Tensor) -> Tensor:
        """Return h^K (N, C_K, px / 2^K, px / 2^K) of frames (N, 3, px, px) in [0, 1]."""
        return self.encode(frames)[-1]

    def decode(self, z: Tensor, features: Sequence[Tensor], sources: Sequence[Tensor]) -> Tensor:
        """Return the next frames (N, 3, px, px) in [0, 1].

        Args:
            z: (N, C_Z, H, W) latent z_{t+1} of the deepest module in use.
            features: h_t^1 .. h_t^depth; their number is the number of modules in use.
            sources: The last context frames and those before them, each (1 or N, 3, px, px) in [0, 1]; at context
                steps the last one is x_t. The literal model does not use them.
        """
        depth = len(features)
        v = self.module(depth).decoder.project(z)
        for k in range(depth, 0, -1):
            v = self.module(k).decoder(features[k - 1], v)
        pixels, masks = self.module(1).pixels, self.module(1).masks
        assert pixels is not None  # noqa: S101 - for the type checker
        if masks is None:
            return compose(pixels(v), (), 0)
        return compose(masks(pixels(v), v, sources), sources, self.config.mask_threshold)

    def prior_features(self, h: Tensor, n_steps: int) -> Tensor:
        """Return the input features of the prior from those of all T steps (T * B, C, H, W), oldest step first."""
        n_context = self.config.n_context
        if self.config.prior_frames == "all" or n_steps <= n_context:
            return h
        context = h.chunk(n_steps)[:n_context]
        return torch.cat([*context, *[context[-1]] * (n_steps - n_context)])

    def prior_actions(self, actions: Tensor, n_steps: int, n_context: int | None = None) -> Tensor:
        """Return the input actions of the prior from the raw ones (T * B, A) of T steps, oldest step first.

        Args:
            actions: Row t leads from frame t to t + 1.
            n_steps: T.
            n_context: Frames of the context; None: as in the configuration.

        Returns:
            (T * B, A) scaled actions; with `prior_frames` "context" (T * B, 2 * A): scaled actions, then for each
            step the sum of those since the last context frame, times 0.3 (ours).
        """
        scaled = actions / self.action_scale
        if self.config.prior_frames == "all":
            return scaled
        first = (self.config.n_context if n_context is None else n_context) - 1
        steps = scaled.view(n_steps, len(scaled) // n_steps, self.config.action_dim)
        since = torch.cat([torch.zeros_like(steps[:first]), steps[first:].cumsum(0)])
        return torch.cat([steps, _SUM_SCALE * since], 2).flatten(0, 1)

    def prior(
        self, h: Tensor, actions: Tensor, depth: int, n_steps: int = 1, state: RecurrentState | None = None
    ) -> tuple[Gaussian, RecurrentState | None]:
        """Return module `depth`'s prior for z_{t+1} from `prior_features` and `prior_actions` of N steps."""
        if self.config.prior == "uniform":
            zero = h.new_zeros((len(h), self.config.modules[depth - 1].latent, *h.shape[2:]), dtype=torch.float32)
            return Gaussian(zero, zero), None
        gaussian, state = self.module(depth).prior(h, actions, n_steps, state)
        return gaussian, state

    def unroll(
        self, context: Tensor, actions: Tensor, generator: torch.Generator | None = None, depth: int | None = None
    ) -> Iterator[Tensor]:
        """Like `predict`, but with gradients if the caller records them."""
        depth = self.check_request(context, actions, depth)
        n, n_context = len(actions), context.shape[1]
        seen = self.encode(context.transpose(0, 1).flatten(0, 1), depth)  # each (n_context * (1 or N), C, H, W)
        state: RecurrentState | None = None
        frame, sources = context[:, -1], context_sources(context)
        n_steps = actions.shape[1]
        given = self.prior_actions(actions.transpose(0, 1).flatten(0, 1), n_steps, n_context).chunk(n_steps)
        for t in range(n_steps):
            if t < n_context:
                features = [h.chunk(n_context)[t].expand(n, *h.shape[1:]) for h in seen]
            else:
                features = self.encode(frame, depth)
            if t < n_context or self.config.prior_frames == "all":
                h = features[-1]
            prior, state = self.prior(h, given[t], depth, state=state)
            if t >= n_context - 1:
                z = draw(prior.mean, (0.5 * prior.log_variance).exp(), generator)
                frame = self.decode(z, features, sources)
                yield frame


def context_sources(context: Tensor) -> tuple[Tensor, Tensor]:
    """Return the last frame of contexts (N, n_context, 3, px, px) and the one before it, if any, else the last."""
    return context[:, -1], context[:, max(0, context.shape[1] - 2)]


def rollout_with_sources(
    model: VideoModel, context: Tensor, actions: Tensor, depth: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return the frames of `model.rollout` with the prior mean, and where their pixels come from.

    Returns:
        The frames (N, T, 3, px, px) in [0, 1], and in the same shape the shares of the drawn colour, of the last
        context frame and of the one before it in each pixel; None for a model without copies.
    """
    network = model.module(1).masks if isinstance(model, Ghvae) else None
    if network is None or not isinstance(model, Ghvae):
        return model.rollout(context, actions, depth=depth), None
    shares: list[Tensor] = []
    threshold = model.config.mask_threshold

    def record(_network: nn.Module, _inputs: Any, head: Tensor) -> None:
        shares.append(copy_masks(head, threshold))

    handle = network.register_forward_hook(record)
    try:
        frames = model.rollout(context, actions, depth=depth)
    finally:
        handle.remove()
    return frames, torch.stack(shares, 1)
