from __future__ import annotations

import pytest
import torch

from ghvae_core.models.layers import ConvLstm, Decoder, Encoder, Posterior, Prior, RecurrentLatent, ResidualBlock, norm


@pytest.mark.parametrize("channels", [8, 12, 16, 24, 48, 80, 152, 304, 920, 1536])
def test_norm_groups_hold_at_least_eight_channels(channels: int) -> None:
    groups = norm(channels).num_groups
    assert channels % groups == 0
    assert channels // groups >= 8
    assert groups <= 32


def test_encoder_halves_and_decoder_doubles() -> None:
    features = Encoder(3, 8, 2, 8)(torch.rand(2, 3, 16, 16))
    assert features.shape == (2, 8, 8, 8)
    deeper = Encoder(8, 12, 1, 1)(features[:, :, :2, :2])
    assert deeper.shape == (2, 12, 1, 1)
    decoder = Decoder(12, 8, 3, 1, 1)
    assert decoder(deeper, decoder.project(torch.rand(2, 3, 1, 1))).shape == (2, 8, 2, 2)


@pytest.mark.parametrize("stride", [1, 2])
def test_residual_block_trains_in_channels_last_memory(stride: int) -> None:
    # In torch 2.13 a strided 1x1 convolution here corrupts memory; the block must do without.
    block = ResidualBlock(8, 8, stride=stride).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert not any(
        isinstance(part, torch.nn.Conv2d) and part.kernel_size == (1, 1) and part.stride != (1, 1)
        for part in block.modules()
    )
    x = torch.rand(4, 8, 16, 16).contiguous(memory_format=torch.channels_last).requires_grad_()
    block(x).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_all_steps_at_once_equal_single_steps_with_the_state_carried() -> None:
    lstm = ConvLstm(4, 6, 3)
    x = torch.rand(5 * 2, 4, 8, 8)
    together, last = lstm(x, 5, None)
    state, single = None, []
    for step in x.chunk(5):
        output, state = lstm(step, 1, state)
        single.append(output)
    torch.testing.assert_close(torch.cat(single), together)
    assert state is not None
    torch.testing.assert_close(state.cell, last.cell)


def test_forget_gate_starts_open() -> None:
    bias = ConvLstm(4, 6, 1).from_input.bias
    assert bias is not None
    assert bias[6:12].mean() > 0.5 > bias[:6].abs().mean()


def test_prior_clamps_its_variance_and_posterior_has_none() -> None:
    prior = Prior(RecurrentLatent(8, 8, 3, 4, True), 8, 3)
    with torch.no_grad():
        head = prior.head.bias
        assert head is not None
        head[3:] = torch.tensor([100.0, -100.0, 0.0])
    gaussian, _ = prior(torch.rand(4, 8, 4, 4), torch.rand(4, 4), 2)
    assert gaussian.mean.shape == (4, 3, 4, 4)
    assert gaussian.log_variance[:, 0].max() == 4.0
    assert gaussian.log_variance[:, 1].min() == -6.0
    assert Posterior(RecurrentLatent(8, 8, 3, 0, False), 8, 3)(torch.rand(4, 8, 4, 4), 2).shape == (4, 3, 4, 4)
