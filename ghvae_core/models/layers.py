"""The four networks of one GHVAE module: encoder, decoder, prior, posterior.

Time is folded into the batch, oldest step first: (T * B, C, H, W) holds B sequences of T steps, and everything except
the recurrence runs on all steps at once. No batch normalisation: a frozen module must not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

_MASK_CHANNELS = 16  # fewest of the network of masks; ours
_LOG_VARIANCE_MIN, _LOG_VARIANCE_MAX = -6.0, 4.0  # ours; keeps the KL finite


class RecurrentState(NamedTuple):
    """State of a recurrent network between steps; each (B, hidden, H, W)."""

    hidden: Tensor
    cell: Tensor


class Gaussian(NamedTuple):
    """A diagonal Gaussian over a latent; each (T * B, C_Z, H, W)."""

    mean: Tensor
    log_variance: Tensor


def norm(channels: int) -> nn.GroupNorm:
    """Return a group norm with at least 8 channels per group; smaller groups remove absolute colour."""
    most = min(32, max(1, channels // 8))
    return nn.GroupNorm(next(n for n in range(most, 0, -1) if channels % n == 0), channels)


def gaussian(head: Tensor) -> Gaussian:
    """Return the float32 Gaussian of a head of 2 * C_Z channels: means, then log variances, which are clamped."""
    mean, log_variance = head.float().chunk(2, 1)
    return Gaussian(mean, log_variance.clamp(_LOG_VARIANCE_MIN, _LOG_VARIANCE_MAX))


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """Return a convolution that keeps the image size, or divides it by the stride."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=bias)


class ResidualBlock(nn.Module):
    """Pre-norm residual block: (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.norm_1, self.conv_1 = norm(inputs), conv(inputs, outputs, kernel, stride)
        self.norm_2, self.conv_2 = norm(outputs), conv(outputs, outputs, kernel)
        # Pooled, not strided: the backward of a strided 1x1 convolution corrupts memory in torch 2.13 (CPU).
        pool = nn.Identity() if stride == 1 else nn.AvgPool2d(stride)
        same = inputs == outputs and stride == 1
        self.skip = nn.Identity() if same else nn.Sequential(pool, conv(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = self.conv_1(functional.silu(self.norm_1(x)))
        y = self.conv_2(functional.silu(self.norm_2(y)))
        return torch.add(y, self.skip(x))


class Encoder(nn.Module):
    """`h^{k-1} -> h^k` at half the size: (N, inputs, 2H, 2W) -> (N, channels, H, W)."""

    def __init__(self, inputs: int, channels: int, n_blocks: int, px: int) -> None:
        """Build the encoder, with a stem if the input is an image of 3 channels; `px` is H."""
        super().__init__()
        stem = inputs == 3
        kernel = 3 if px > 1 else 1
        self.stem = conv(inputs, channels, 3) if stem else nn.Identity()
        blocks = [ResidualBlock(channels if stem else inputs, channels, 3, stride=2)]
        blocks += [ResidualBlock(channels, channels, kernel) for _ in range(n_blocks - 1)]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Return h^k."""
        encoded: Tensor = self.blocks(self.stem(x))
        return encoded


class Decoder(nn.Module):
    """`(h_t^k, v^k) -> v^{k-1}` at twice the size; v^0 is the next image, before the sigmoid.

    v^k is `project(z^k)` if module k is the deepest one, else the output of decoder k + 1. A frozen decoder thus
    gets only inputs of the kind that it was trained on.
    """

    def __init__(self, channels: int, outputs: int, latent: int, n_blocks: int, px: int) -> None:
        super().__init__()
        kernel = 3 if px > 1 else 1
        self.project = nn.Conv2d(latent, channels, 1)
        blocks = [ResidualBlock(2 * channels, channels, kernel)]
        blocks += [ResidualBlock(channels, channels, kernel) for _ in range(n_blocks - 1)]
        self.blocks = nn.Sequential(*blocks)
        self.up = conv(channels, outputs, 3)
        self.refine = ResidualBlock(outputs, outputs)

    def forward(self, h: Tensor, v: Tensor) -> Tensor:
        """Return v^{k-1} (N, outputs, 2H, 2W) from h_t^k and v^k, each (N, channels, H, W)."""
        x = self.blocks(torch.cat([h, v.to(h.dtype)], 1))
        decoded: Tensor = self.refine(self.up(functional.interpolate(x, scale_factor=2, mode="nearest")))
        return decoded


class SourceMasks(nn.Module):
    """Adds to the head of decoder 1 what follows from the pixels of the sources; ours.

    Decoder 1 knows the present frame alone. Where the arm moves away, only the context frames show what is behind it,
    and only their pixels tell whether the arm was there too.
    """

    def __init__(self, channels: int, n_sources: int) -> None:
        """Build the network, which starts without effect; `channels` is the number of features of decoder 1."""
        super().__init__()
        hidden = max(_MASK_CHANNELS, channels)
        self.hidden = conv(channels + 3 * n_sources, hidden, 3)
        self.output = conv(hidden, 4 + n_sources, 3)
        bias = self.output.bias
        assert bias is not None  # noqa: S101 - for the type checker; `conv` makes one
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(bias)

    def forward(self, head: Tensor, v: Tensor, sources: Sequence[Tensor]) -> Tensor:
        """Return the head (N, 4 + S, px, px) from features v (N, channels, px, px) and S sources as in `compose`."""
        pixels = [(source - 0.5).expand(len(v), *source.shape[1:]) for source in sources]
        added: Tensor = self.output(functional.silu(self.hidden(torch.cat([v, *pixels], 1))))
        return head + added


def require_gradient(x: Tensor, network: nn.Module) -> Tensor:
    """Return x, with an unused gradient if `network` is trained.

    The backward of GroupNorm in torch 2.13 (CPU, channels last) crashes if its weights need a gradient and its input
    does not.
    """
    is_trained = torch.is_grad_enabled() and next(network.parameters()).requires_grad
    return x.detach().requires_grad_() if is_trained and not x.requires_grad else x


def compose(head: Tensor, sources: Sequence[Tensor], mask_threshold: float) -> Tensor:
    """Return the next frames: drawn ones, or for each pixel a mixture of a drawn colour and of earlier frames; ours.

    `x_{t+1} = m_0 * r + m_1 * s_1 + m_2 * s_2 + ...` with `r = sigmoid(head[:, :3])` and the shares m of `copy_masks`.
    Pixels that do not change are copied, not drawn: without it they blur within a few predicted steps.

    Args:
        head: (N, 3, px, px) without sources, else (N, 4 + S, px, px).
        sources: S earlier frames, each (1 or N, 3, px, px) in [0, 1].
        mask_threshold: As in `copy_masks`.

    Returns:
        (N, 3, px, px) float32 in [0, 1].
    """
    drawn = torch.sigmoid(head[:, :3].float())
    if not sources:
        return drawn
    masks = copy_masks(head, mask_threshold)
    frame = masks[:, :1] * drawn
    for index, source in enumerate(sources, start=1):
        frame = frame + masks[:, index : index + 1] * source
    return frame


def copy_masks(head: Tensor, mask_threshold: float) -> Tensor:
    """Return the shares of the drawn colour and of each source in a pixel; they sum to 1.

    The shares are `softmax(head[:, 3:])`. That of the drawn colour, m_0, becomes `max(0, m_0 - t) / (1 - t)` with the
    threshold t, and the sources divide the rest in their proportions. So a pixel that is mostly copied is copied
    exactly: small shares of the drawn colour would add up over the steps of a rollout.

    Args:
        head: (N, 4 + S, px, px); the first three channels are colours.
        mask_threshold: t in [0, 1).

    Returns:
        (N, 1 + S, px, px) float32.
    """
    masks = torch.softmax(head[:, 3:].float(), 1)
    if mask_threshold == 0:
        return masks
    drawn = functional.relu(masks[:, :1] - mask_threshold) / (1 - mask_threshold)
    return torch.cat([drawn, (1 - drawn) * torch.softmax(head[:, 4:].float(), 1)], 1)


class ConvLstm(nn.Module):
    """Convolutional LSTM; its input convolution runs on all steps at once."""

    def __init__(self, inputs: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.from_input = conv(inputs, 4 * hidden, kernel)
        self.from_hidden = conv(hidden, 4 * hidden, kernel, bias=False)
        bias = self.from_input.bias
        assert bias is not None  # noqa: S101 - for the type checker; `conv` makes one
        with torch.no_grad():
            bias[hidden : 2 * hidden] += 1.0  # forget gate open at the start, for gradients through time

    def forward(self, x: Tensor, n_steps: int, state: RecurrentState | None) -> tuple[Tensor, RecurrentState]:
        """Return the hidden states (T * B, hidden, H, W) of all steps and the state after the last."""
        steps = self.from_input(x).chunk(n_steps)  # each (B, 4 * hidden, H, W)
        outputs = []
        for gates in steps:
            state = self._step(gates, state)
            outputs.append(state.hidden)
        assert state is not None  # noqa: S101 - n_steps is at least 1
        return torch.cat(outputs), state

    def _step(self, gates: Tensor, state: RecurrentState | None) -> RecurrentState:
        if state is not None:
            gates = gates + self.from_hidden(state.hidden)
        i, f, o, g = gates.chunk(4, 1)
        cell = torch.sigmoid(i) * torch.tanh(g)
        if state is not None:
            cell = cell + torch.sigmoid(f) * state.cell
        return RecurrentState(torch.sigmoid(o) * torch.tanh(cell), cell)


def action_network(action_dim: int, outputs: int) -> nn.Sequential | None:
    """Return a network for scaled actions (N, A) -> (N, outputs), to be added to features; None without actions."""
    return nn.Sequential(nn.Linear(action_dim, outputs), nn.SiLU(), nn.Linear(outputs, outputs)) if action_dim else None


class RecurrentLatent(nn.Module):
    """Body of prior and posterior: (h, a) of all steps -> features of the latent of all steps.

    Actions are embedded by a small network and added to the normalised features; concatenated without it they were
    ignored.
    """

    def __init__(
        self, channels: int, hidden: int, kernel: int, action_dim: int, refine: bool, *, takes_sums: bool = False
    ) -> None:
        """Build the body.

        Args:
            channels: Of h.
            hidden: Of the ConvLSTM and of the result.
            kernel: Of all convolutions.
            action_dim: Numbers in an action; 0: no actions.
            refine: Add a convolution after the ConvLSTM.
            takes_sums: Each action is followed by as many sums of actions, which have a network of their own.
        """
        super().__init__()
        self.norm = norm(channels)
        self.embed = conv(channels, hidden, kernel)
        self.action = action_network(action_dim, hidden)
        self.action_sum = action_network(action_dim, hidden) if takes_sums else None
        self.lstm = ConvLstm(hidden, hidden, kernel)
        self.refine = conv(2 * hidden, hidden, kernel) if refine else None

    def forward(
        self, h: Tensor, actions: Tensor | None, n_steps: int, state: RecurrentState | None
    ) -> tuple[Tensor, RecurrentState]:
        """Return the features (T * B, hidden, H, W) and the state after the last step."""
        x = self.embed(self.norm(h))
        if self.action is not None and actions is not None:
            if self.action_sum is not None:
                actions, sums = actions.chunk(2, 1)
                x = x + self.action_sum(sums)[:, :, None, None]
            x = x + self.action(actions)[:, :, None, None]
        x = functional.silu(x)
        y, state = self.lstm(x, n_steps, state)
        if self.refine is not None:
            y = y + functional.silu(self.refine(torch.cat([y, x.to(y.dtype)], 1)))
        return y, state


class Prior(nn.Module):
    """`p(z_{t+1} | h_{<=t}, a_{<=t})`: distribution of the next latent."""

    def __init__(self, body: RecurrentLatent, hidden: int, latent: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Conv2d(hidden, 2 * latent, 1)

    def forward(
        self, h: Tensor, actions: Tensor | None, n_steps: int = 1, state: RecurrentState | None = None
    ) -> tuple[Gaussian, RecurrentState]:
        """Return the prior of all steps in float32 and the state after the last step."""
        y, state = self.body(h, actions, n_steps, state)
        return gaussian(self.head(y)), state


class Posterior(nn.Module):
    """`q(z_{t+1} | h_{<=t+1})`, used in training only; its standard deviation is a constant (paper 2)."""

    def __init__(self, body: RecurrentLatent, hidden: int, latent: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Conv2d(hidden, latent, 1)

    def forward(self, h_next: Tensor, n_steps: int) -> Tensor:
        """Return the mean (T * B, C_Z, H, W) of all steps in float32, from zero state."""
        y, _ = self.body(h_next, None, n_steps, None)
        mean: Tensor = self.head(y).float()
        return mean
