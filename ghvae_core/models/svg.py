"""The baseline SVG', a wide stochastic recurrent network (Villegas et al. 2019).

"High Fidelity Video Prediction with Large Stochastic Recurrent Neural Networks" replaces the vectors of stochastic
video generation (Denton and Fergus 2018) by convolutional LSTMs on 8x8 maps, between a shallow VGG encoder and decoder,
and widens both: the recurrent part by M, the frame encoder and decoder by K. It is trained end to end. Written from the
papers, with three choices of ours. Group norm instead of batch norm: a prediction must not depend on the rest of the
batch, nor differ between training and evaluation. An open forget gate at the start. Actions are an input of the prior
too, not only of the predictor: the latent contains the effect of the action, which such a prior can predict.

Shapes: B sequences, T steps, N = T * B with the oldest step first; features are px / 8 wide.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from ghvae_core.models.layers import ConvLstm, RecurrentState, conv, gaussian, norm
from ghvae_core.models.video_model import IMAGE_CHANNELS, ModelConfig, VideoModel, draw

_STAGES = 3  # of encoder and decoder: 64 -> 8 pixels


class SvgConfig(ModelConfig):
    """Sizes of an SVG'."""

    kind: Literal["svg"] = "svg"
    width_k: float = Field(default=1.0, gt=0)  # K: widens frame encoder and decoder; 1 to 5 in Villegas et al.
    width_m: float = Field(default=1.0, gt=0)  # M: widens the recurrent part; 1 to 3 in Villegas et al.
    stage_channels: tuple[int, int, int] = (64, 128, 256)  # of the VGG at K = 1; Denton and Fergus
    # Of the ConvLSTMs at M = 1; Denton and Fergus. M = 3, K = 5 then have 283M parameters, near the 298M reported.
    hidden: int = Field(default=256, gt=0)
    features: int = Field(default=128, gt=0)  # channels of a frame's 8x8 map; Denton and Fergus
    latent: int = Field(default=10, gt=0)  # channels of z; Villegas et al.

    @model_validator(mode="after")
    def _check_size(self) -> SvgConfig:
        if self.image_px % 2**_STAGES:
            raise ValueError(f"image_px must be divisible by {2**_STAGES}, got {self.image_px}")
        if min(self.stage_channels) <= 0:
            raise ValueError(f"stage_channels: expected positive numbers, got {self.stage_channels}")
        return self

    def widths(self) -> list[int]:
        """Return the channels of the stages, shallowest first."""
        return [max(1, round(self.width_k * channels)) for channels in self.stage_channels]


class ConvBlock(nn.Sequential):
    """Convolution, norm, leaky ReLU: (N, inputs, H, W) -> (N, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(conv(inputs, outputs, 3), norm(outputs), nn.LeakyReLU(0.2))


class FrameEncoder(nn.Module):
    """Frame -> features and one skip connection per stage."""

    def __init__(self, config: SvgConfig) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        inputs = IMAGE_CHANNELS
        for stage, channels in enumerate(config.widths()):
            blocks = [ConvBlock(inputs, channels), ConvBlock(channels, channels)]
            if stage == _STAGES - 1:
                blocks.append(ConvBlock(channels, channels))
            self.stages.append(nn.Sequential(*blocks))
            inputs = channels
        self.head = nn.Sequential(conv(inputs, config.features, 3), norm(config.features), nn.Tanh())

    def forward(self, frames: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return features (N, features, px / 8, px / 8) and skips, shallowest first, of frames (N, 3, px, px)."""
        x, skips = frames.contiguous(memory_format=torch.channels_last), []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)  # (N, C, px / 2^stage, px / 2^stage)
            x = functional.max_pool2d(x, 2)
        return self.head(x), skips


class FrameDecoder(nn.Module):
    """Predicted features and the skips of an earlier frame -> predicted frame."""

    def __init__(self, config: SvgConfig) -> None:
        super().__init__()
        widths = config.widths()
        self.entry = ConvBlock(config.features, widths[-1])
        self.stages = nn.ModuleList()  # deepest first
        for stage in reversed(range(_STAGES)):
            channels, outputs = widths[stage], widths[max(0, stage - 1)]
            blocks = [ConvBlock(2 * channels, channels)]
            if stage == _STAGES - 1:
                blocks.append(ConvBlock(channels, channels))
            if stage > 0:
                blocks.append(ConvBlock(channels, outputs))
            self.stages.append(nn.Sequential(*blocks))
        self.pixels = conv(widths[0], IMAGE_CHANNELS, 3)

    def forward(self, features: Tensor, skips: list[Tensor]) -> Tensor:
        """Return frames (N, 3, px, px) in [0, 1]."""
        x = self.entry(features)
        for stage, skip in zip(self.stages, reversed(skips), strict=True):
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = stage(torch.cat([x, skip.to(x.dtype)], 1))
        return torch.sigmoid(self.pixels(x).float())


class Recurrent(nn.Module):
    """Embedding, stacked ConvLSTMs and head: (N, inputs, H, W) -> (N, outputs, H, W)."""

    def __init__(self, inputs: int, hidden: int, outputs: int, n_layers: int) -> None:
        super().__init__()
        self.embed = conv(inputs, hidden, 3)
        self.lstms = nn.ModuleList(ConvLstm(hidden, hidden, 3) for _ in range(n_layers))
        self.head = conv(hidden, outputs, 3)

    def forward(
        self, x: Tensor, n_steps: int, states: list[RecurrentState] | None
    ) -> tuple[Tensor, list[RecurrentState]]:
        """Return the outputs of all steps and the states after the last one; `states` None: zero."""
        x, after = self.embed(x), []
        for layer, lstm in enumerate(self.lstms):
            x, state = lstm(x, n_steps, None if states is None else states[layer])
            after.append(state)
        return self.head(x), after


class _States(NamedTuple):
    """Recurrent states between steps; None at the start of a sequence."""

    prior: list[RecurrentState] | None = None
    predictor: list[RecurrentState] | None = None


class Svg(VideoModel):
    """SVG' as a model of one module."""

    config: SvgConfig

    def __init__(self, config: SvgConfig) -> None:
        super().__init__(config)
        hidden, inputs = max(1, round(config.width_m * config.hidden)), config.features + config.action_dim
        self.encoder, self.decoder = FrameEncoder(config), FrameDecoder(config)
        self.prior = Recurrent(inputs, hidden, 2 * config.latent, 1)
        self.posterior = Recurrent(config.features, hidden, 2 * config.latent, 1)
        self.predictor = Recurrent(inputs + config.latent, hidden, config.features, 2)
        nn.Module.to(self, memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on a CPU

    def features(self, frames: Tensor) -> Tensor:
        """Return the features (N, C, px / 8, px / 8) of frames (N, 3, px, px) in [0, 1]."""
        features: Tensor = self.encoder(frames)[0]
        return features

    def with_actions(self, features: Tensor, actions: Tensor) -> Tensor:
        """Return features (N, C, H, W) with raw actions (N, A) tiled to A further channels."""
        scaled = (actions / self.action_scale)[:, :, None, None].expand(-1, -1, *features.shape[2:])
        return torch.cat([features, scaled.to(features.dtype)], 1)

    def next_features(
        self, inputs: Tensor, z: Tensor, n_steps: int = 1, states: list[RecurrentState] | None = None
    ) -> tuple[Tensor, list[RecurrentState]]:
        """Return the features of the next frames and the states of the predictor after the last step."""
        features, states = self.predictor(torch.cat([inputs, z.to(inputs.dtype)], 1), n_steps, states)
        return torch.tanh(features), states

    def unroll(
        self, context: Tensor, actions: Tensor, generator: torch.Generator | None = None, depth: int | None = None
    ) -> Iterator[Tensor]:
        """Like `predict`, but with gradients if the caller records them.

        On context frames the recurrent states are computed with the prior mean; the posterior is not used. The skip
        connections are those of the last context frame.
        """
        self.check_request(context, actions, depth)
        n, n_context = len(actions), context.shape[1]
        seen, skips = self.encoder(context.transpose(0, 1).flatten(0, 1))
        last = [skip.chunk(n_context)[-1].expand(n, *skip.shape[1:]) for skip in skips]
        states, frame = _States(), context.new_empty(0)
        for t in range(actions.shape[1]):
            if t < n_context:
                features = seen.chunk(n_context)[t].expand(n, *seen.shape[1:])
            else:
                features, _ = self.encoder(frame)
            inputs = self.with_actions(features, actions[:, t])
            head, prior = self.prior(inputs, 1, states.prior)
            latent, is_context = gaussian(head), t < n_context - 1
            z = draw(latent.mean, (0.5 * latent.log_variance).exp(), None if is_context else generator)
            predicted, predictor = self.next_features(inputs, z, 1, states.predictor)
            states = _States(prior, predictor)
            if not is_context:
                frame = self.decoder(predicted, last)
                yield frame
