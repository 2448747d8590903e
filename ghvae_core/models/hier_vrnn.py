"""The baseline Hier-VRNN, a recurrent network with a hierarchy of latents (Castrejon, Ballas and Courville 2019).

"Improved Conditional VRNNs for Video Prediction" has latents at three resolutions. Connections are dense: the prior and
the posterior of a level get the latents of all coarser levels, and a stage of the decoder those of all levels so far.
Each stage of the decoder, each prior and each posterior has a ConvLSTM, whose first state is computed from the context
frames. It is trained end to end. Written from the paper, which has no actions. Choices of ours:

- actions are an input of every prior and of every stage of the decoder;
- each stage of the decoder also gets the features of the present frame at its resolution, so that what does not move
  need not pass through the latents or the recurrent state;
- a residual connection around each ConvLSTM: after 150 steps at 32x32 the error of the next frame was 0.012 instead of
  0.022;
- group norm, before a ConvLSTM instead of inside: only the hidden state is convolved step by step; an open forget gate
  at the start;
- dense connections are added after a 1x1 convolution, which is computed at the resolution of the latent;
- the features of the coarsest stage are an average over the image, so that the weights fit every image size;
- the channels of the latents.

Shapes: B sequences, T steps, N = T * B with the oldest step first. Stages count from 0, the shallowest: stage s has
px / 2^s pixels, and the last has one. Lists of features are in this order; lists of latents begin with the coarsest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from ghvae_core.models.layers import (
    ConvLstm,
    Gaussian,
    RecurrentState,
    ResidualBlock,
    action_network,
    conv,
    gaussian,
    norm,
)
from ghvae_core.models.video_model import IMAGE_CHANNELS, ModelConfig, VideoModel, draw

_WIDTHS = (1, 2, 4, 8, 8, 8)  # channels of the stages, in multiples of n_hid; Castrejon et al.
_LAST = len(_WIDTHS) - 1  # the stage of one pixel
_LEVELS = (5, 3, 1)  # stages of the latents: 1, 8 and 32 pixels of 64; Castrejon et al.

ChooseLatent = Callable[[int, Gaussian], Tensor]  # level and distribution -> latent


class HierVrnnConfig(ModelConfig):
    """Sizes of a Hier-VRNN."""

    kind: Literal["hier_vrnn"] = "hier_vrnn"
    n_hid: int = Field(default=64, gt=0)  # channels of the shallowest stage; Castrejon et al.
    latents: tuple[int, int, int] = (32, 8, 4)  # channels of the latents, coarsest first; ours
    # Residual blocks of a stage; ours. n_hid 64 then has 200.8M parameters, near the 207.9M of the published code.
    encoder_blocks: int = Field(default=2, ge=1)
    decoder_blocks: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _check_size(self) -> HierVrnnConfig:
        if self.image_px % 2 ** (_LAST - 1):
            raise ValueError(f"image_px must be divisible by {2 ** (_LAST - 1)}, got {self.image_px}")
        if min(self.latents) <= 0:
            raise ValueError(f"latents: expected positive numbers, got {self.latents}")
        return self

    def width(self, stage: int) -> int:
        """Return the channels of a stage."""
        return _WIDTHS[stage] * self.n_hid


class FrameEncoder(nn.Module):
    """Frame -> features of all stages, each (N, C, px / 2^s, px / 2^s), the last (N, C, 1, 1)."""

    def __init__(self, config: HierVrnnConfig) -> None:
        super().__init__()
        self.stem = conv(IMAGE_CHANNELS, config.width(0), 3)
        self.stages = nn.ModuleList()
        for stage in range(len(_WIDTHS)):
            inputs, stride = config.width(max(0, stage - 1)), 2 if 0 < stage < _LAST else 1
            blocks = [ResidualBlock(inputs, config.width(stage), stride=stride)]
            blocks += [
                ResidualBlock(config.width(stage), config.width(stage)) for _ in range(config.encoder_blocks - 1)
            ]
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, frames: Tensor) -> list[Tensor]:
        """Return the features of frames (N, 3, px, px)."""
        x, features = self.stem(frames.contiguous(memory_format=torch.channels_last)), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        features[-1] = features[-1].mean((2, 3), keepdim=True)
        return features


class RecurrentStage(nn.Module):
    """Norm, embedding, dense connections and a residual ConvLSTM: (N, inputs, H, W) -> (N, C, H, W)."""

    def __init__(self, config: HierVrnnConfig, stage: int, inputs: int, n_latents: int, takes_actions: bool) -> None:
        """Build the network at the resolution of a stage; it gets the `n_latents` coarsest latents."""
        super().__init__()
        width, kernel = config.width(stage), 1 if stage == _LAST else 3
        self.norm, self.embed = norm(inputs), conv(inputs, width, kernel)
        self.latents = nn.ModuleList(conv(latent, width, 1, bias=False) for latent in config.latents[:n_latents])
        self.action = action_network(config.action_dim, width) if takes_actions else None
        self.lstm = ConvLstm(width, width, kernel)
        self.context_norm, self.context = norm(width), conv(config.n_context * width, 2 * width, kernel)

    def initial(self, context: Tensor) -> RecurrentState:
        """Return the first state, of the features (n_context * B, C, H, W) of the context frames at this stage."""
        n = len(context) * self.context_norm.num_channels // self.context.in_channels  # B
        frames = self.context_norm(context).split(n)  # n_context times (B, C, H, W)
        hidden, cell = self.context(torch.cat(frames, 1)).chunk(2, 1)
        return RecurrentState(torch.tanh(hidden), cell)

    def forward(
        self, x: Tensor, latents: Sequence[Tensor], actions: Tensor, state: RecurrentState
    ) -> tuple[Tensor, RecurrentState]:
        """Return the outputs of all steps and the state after the last one.

        Args:
            x: (T * B, inputs, H, W).
            latents: Each (T * B, C_Z, h, w), coarsest first; those finer than the stage are not used.
            actions: (T * B, A), scaled.
            state: Before the first step, of B sequences.
        """
        x, dense = self.embed(self.norm(x)), None
        for network, z in zip(self.latents, latents, strict=False):
            y = network(z)
            dense = y if dense is None else y + _resized(dense, y)
        if dense is not None:
            x = x + _resized(dense, x)
        if self.action is not None:
            x = x + self.action(actions)[:, :, None, None]
        x = functional.silu(x)
        y, state = self.lstm(x, len(x) // len(state.hidden), state)
        return x + y, state


class LatentHierarchy(nn.Module):
    """Prior or posterior: the distributions of the latents of all levels."""

    def __init__(self, config: HierVrnnConfig, takes_actions: bool) -> None:
        super().__init__()
        self.bodies, self.heads = nn.ModuleList(), nn.ModuleList()
        for level, (stage, latent) in enumerate(zip(_LEVELS, config.latents, strict=True)):
            width = config.width(stage)
            self.bodies.append(RecurrentStage(config, stage, width, level, takes_actions))
            self.heads.append(conv(width, 2 * latent, 1))

    def initial(self, context: Sequence[Tensor]) -> list[RecurrentState]:
        """Return the first state of each level, of the features of the context frames."""
        return _initial(self.bodies, [context[stage] for stage in _LEVELS])

    def forward(
        self, features: Sequence[Tensor], actions: Tensor, choose: ChooseLatent, *, states: Sequence[RecurrentState]
    ) -> tuple[list[Gaussian], list[Tensor], list[RecurrentState]]:
        """Return the distributions in float32, the latents, and the states after the last step.

        Args:
            features: Of all stages, of T steps.
            actions: (T * B, A), scaled; not used by a posterior.
            choose: Returns the latent of a level, which the next levels get.
            states: Before the first step, one per level.
        """
        distributions: list[Gaussian] = []
        latents: list[Tensor] = []
        after = []
        for level, (body, head) in enumerate(zip(self.bodies, self.heads, strict=True)):
            y, state = body(features[_LEVELS[level]], latents, actions, states[level])
            distributions.append(gaussian(head(y)))  # (N, C_Z, 1, 1), then px / 8 and px / 2 wide
            latents.append(choose(level, distributions[-1]))
            after.append(state)
        return distributions, latents, after


class FrameDecoder(nn.Module):
    """Features of the present frame, latents and actions -> next frame."""

    def __init__(self, config: HierVrnnConfig) -> None:
        super().__init__()
        self.recurrent, self.blocks = nn.ModuleList(), nn.ModuleList()  # coarsest first
        below = 0  # channels of the stage before
        for stage in reversed(range(len(_WIDTHS))):
            width, n_latents = config.width(stage), sum(level >= stage for level in _LEVELS)
            self.recurrent.append(RecurrentStage(config, stage, width + below, n_latents, True))
            self.blocks.append(nn.Sequential(*[ResidualBlock(width, width) for _ in range(config.decoder_blocks)]))
            below = width
        self.pixels = nn.Sequential(norm(below), nn.SiLU(), conv(below, IMAGE_CHANNELS, 3))

    def initial(self, context: Sequence[Tensor]) -> list[RecurrentState]:
        """Return the first state of each stage, coarsest first, of the features of the context frames."""
        return _initial(self.recurrent, context[::-1])

    def forward(
        self,
        features: Sequence[Tensor],
        latents: Sequence[Tensor],
        actions: Tensor,
        *,
        states: Sequence[RecurrentState],
    ) -> tuple[Tensor, list[RecurrentState]]:
        """Return frames (N, 3, px, px) in [0, 1] and the states after the last step; arguments as for the prior."""
        x, after = features[-1], []
        for stage, (recurrent, blocks) in enumerate(zip(self.recurrent, self.blocks, strict=True)):
            if stage > 0:
                shown = features[-1 - stage]
                x = torch.cat([shown, _resized(x, shown).expand(-1, -1, *shown.shape[2:]).to(shown.dtype)], 1)
            x, state = recurrent(x, latents, actions, states[stage])
            x = blocks(x)
            after.append(state)
        return torch.sigmoid(self.pixels(x).float()), after


class States(NamedTuple):
    """Recurrent states between steps, of B sequences."""

    prior: list[RecurrentState]
    decoder: list[RecurrentState]


class HierVrnn(VideoModel):
    """Hier-VRNN as a model of one module."""

    config: HierVrnnConfig

    def __init__(self, config: HierVrnnConfig) -> None:
        super().__init__(config)
        self.encoder, self.decoder = FrameEncoder(config), FrameDecoder(config)
        self.prior, self.posterior = LatentHierarchy(config, True), LatentHierarchy(config, False)
        nn.Module.to(self, memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on a CPU

    def features(self, frames: Tensor) -> Tensor:
        """Return the features (N, C, 1, 1) of frames (N, 3, px, px) in [0, 1]."""
        features: Tensor = self.encoder(frames)[-1]
        return features

    def scaled(self, actions: Tensor) -> Tensor:
        """Return raw actions (N, A) as the networks get them."""
        return actions / self.action_scale

    def initial_states(self, context: Sequence[Tensor]) -> States:
        """Return the states before the first predicted step, of the features of n_context * B context frames."""
        return States(self.prior.initial(context), self.decoder.initial(context))

    def unroll(
        self, context: Tensor, actions: Tensor, generator: torch.Generator | None = None, depth: int | None = None
    ) -> Iterator[Tensor]:
        """Like `predict`, but with gradients if the caller records them.

        The number of context frames is that of the configuration. Actions between context frames are not used.
        """
        self.check_request(context, actions, depth)
        n, n_context = len(actions), context.shape[1]
        if n_context != self.config.n_context:
            raise ValueError(f"expected {self.config.n_context} context frames, as in training, got {n_context}")
        seen = self.encoder(context.transpose(0, 1).flatten(0, 1))
        states = States(*[[_repeated(state, n) for state in each] for each in self.initial_states(seen)])
        features = [each.chunk(n_context)[-1].expand(n, -1, -1, -1) for each in seen]
        frame = context.new_empty(0)
        for t in range(n_context - 1, actions.shape[1]):
            if t >= n_context:
                features = self.encoder(frame)
            given = self.scaled(actions[:, t])
            _, latents, prior = self.prior(features, given, _drawn_by(generator), states=states.prior)
            frame, decoder = self.decoder(features, latents, given, states=states.decoder)
            states = States(prior, decoder)
            yield frame


def _initial(networks: nn.ModuleList, context: Sequence[Tensor]) -> list[RecurrentState]:
    """Return the first state of each network, of the features of the context frames at its stage."""
    states = []
    for network, features in zip(networks, context, strict=True):
        assert isinstance(network, RecurrentStage)  # noqa: S101 - for the type checker
        states.append(network.initial(features))
    return states


def _drawn_by(generator: torch.Generator | None) -> ChooseLatent:
    return lambda _, latent: draw(latent.mean, (0.5 * latent.log_variance).exp(), generator)


def _repeated(state: RecurrentState, n: int) -> RecurrentState:
    """Return the state of 1 or n sequences as that of n."""
    return RecurrentState(*[part.expand(n, -1, -1, -1) for part in state])


def _resized(x: Tensor, like: Tensor) -> Tensor:
    """Return maps at the resolution of others; maps of one pixel as they are, for broadcasting."""
    return x if x.shape[2] in {1, like.shape[2]} else functional.interpolate(x, like.shape[2:], mode="nearest")
