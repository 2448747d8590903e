from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from configs.loader import Config, load
from ghvae_core.models.layers import Gaussian
from ghvae_core.models.svg import Svg, SvgConfig
from ghvae_core.training.objective import NO_WEIGHTS, Batch, Weights, kl_divergence, svg_loss
from ghvae_core.training.validation import to_batch
from tests.ghvae_core.small import PX, small_batch, small_windows

CONFIG = SvgConfig(image_px=PX, width_k=0.125, width_m=0.0625, features=16, latent=3)


class _Section(Config):
    model: SvgConfig


def _svg(config: SvgConfig = CONFIG) -> Svg:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Svg(config)


def _context(n: int = 1) -> Tensor:
    return torch.rand(n, 2, 3, PX, PX, generator=torch.Generator().manual_seed(1))


def _actions(n: int = 2, length: int = 5) -> Tensor:
    return torch.rand(n, length, 4, generator=torch.Generator().manual_seed(2)) * 4 - 2


@pytest.mark.parametrize(("name", "millions"), [("svg_tiny", 2.52), ("svg_paper", 282.81)])
def test_sizes_have_the_published_parameter_counts(name: str, millions: float) -> None:
    config = load(_Section, {"model": f"models/{name}.yaml"}).model
    with torch.device("meta"):
        assert sum(p.numel() for p in Svg(config).parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("px", [16, 24, 64])
def test_features_are_an_eighth_as_wide_and_skips_halve(px: int) -> None:
    features, skips = _svg(CONFIG.model_copy(update={"image_px": px})).encoder(torch.rand(2, 3, px, px))
    assert features.shape == (2, 16, px // 8, px // 8)
    assert [tuple(skip.shape) for skip in skips] == [(2, c, px // f, px // f) for c, f in ((8, 1), (16, 2), (32, 4))]


@pytest.mark.parametrize("n_contexts", [1, 3])
def test_rollout_has_the_specified_shape_and_range(n_contexts: int) -> None:
    predicted = _svg().rollout(_context(n_contexts), _actions(3), depth=1)
    assert predicted.shape == (3, 4, 3, PX, PX)
    assert 0 <= predicted.min() <= predicted.max() <= 1
    assert not predicted.requires_grad


def test_one_shared_context_equals_tiling_it() -> None:
    model, context, actions = _svg(), _context(), _actions(7)
    tiled = model.rollout(context.expand(7, -1, -1, -1, -1), actions)
    torch.testing.assert_close(model.rollout(context, actions), tiled, atol=1e-5, rtol=0)


def test_prediction_depends_on_past_and_present_actions_and_both_context_frames() -> None:
    model, context, actions = _svg(), _context(), _actions(1, 6)
    before = model.rollout(context, actions)
    for t in range(6):
        other = actions.clone()
        other[:, t] += 1
        same = (model.rollout(context, other) == before).flatten(2).all(-1)[0]  # of the 5 predicted frames
        changed_from = max(0, t - 1)  # action 1 leads to predicted frame 0
        assert same[:changed_from].all(), f"action {t} changed a frame before it"
        assert not same[changed_from:].any(), f"action {t} changed nothing"
    for t in range(2):
        changed = context.clone()
        changed[:, t] = 1 - changed[:, t]
        assert not torch.equal(model.rollout(changed, actions), before)


def test_a_longer_rollout_begins_with_the_shorter_one() -> None:
    model, context, actions = _svg(), _context(2), _actions(2, 8)
    torch.testing.assert_close(model.rollout(context, actions)[:, :3], model.rollout(context, actions[:, :4]))


def test_latents_are_drawn_from_the_generator_and_are_the_mean_without() -> None:
    model, context, actions = _svg(), _context(), _actions()
    first, again, other = (model.rollout(context, actions, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(model.rollout(context, actions), model.rollout(context, actions))


def test_prediction_does_not_use_the_posterior() -> None:
    model = _svg()

    def refuse(*_: object) -> None:
        raise AssertionError("called")

    model.posterior.register_forward_hook(refuse)
    model.rollout(_context(), _actions())


def test_an_action_free_model_takes_empty_actions() -> None:
    model = _svg(SvgConfig.model_validate({**CONFIG.model_dump(exclude={"action_scale"}), "action_dim": 0}))
    assert model.rollout(_context(), torch.empty(3, 5, 0)).shape == (3, 4, 3, PX, PX)
    batch = small_batch()
    free = Batch(batch.frames, batch.actions[:, :0], batch.n_steps)
    svg_loss(model, free, Weights(1e-6, 1e-6), None).total.backward()  # type: ignore[no-untyped-call]
    with pytest.raises(ValueError, match="expected actions of 0 numbers, got 4"):
        model.rollout(_context(), _actions())


def test_raw_actions_are_divided_by_their_scale() -> None:
    scaled = _svg(CONFIG.model_copy(update={"action_scale": (0.5, 0.5, 0.5, 1.0)}))
    half = _actions() * torch.tensor([0.5, 0.5, 0.5, 1.0])
    torch.testing.assert_close(scaled.rollout(_context(), half), _svg().rollout(_context(), _actions()))


def test_there_is_one_module() -> None:
    model = _svg()
    assert model.n_modules == 1
    assert model.module(1) is model
    with pytest.raises(ValueError, match="expected module 1, as"):
        model.module(2)
    with pytest.raises(ValueError, match="depth: expected 1 to 1 modules, got 2"):
        model.rollout(_context(), _actions(), depth=2)


@pytest.mark.parametrize(
    ("changes", "reason"), [({"image_px": 20}, "divisible by 8, got 20"), ({"stage_channels": (8, 0, 8)}, "positive")]
)
def test_invalid_configurations_are_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        SvgConfig.model_validate({**CONFIG.model_dump(), **changes})


def test_the_kl_is_the_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(2, 3, 2, 2, generator=generator) for _ in range(4)]
    posterior, prior = Gaussian(*values[:2]), Gaussian(*values[2:])
    normals = [torch.distributions.Normal(g.mean, (0.5 * g.log_variance).exp()) for g in (posterior, prior)]
    torch.testing.assert_close(kl_divergence(*posterior, prior), torch.distributions.kl_divergence(*normals))


def test_the_loss_is_the_error_plus_beta_times_the_kl_per_sequence() -> None:
    model, batch = _svg(), small_batch(3)
    loss = svg_loss(model, batch, Weights(0.5, 0.5), None)
    torch.testing.assert_close(loss.total, loss.mse + 0.5 * loss.kl)
    twice = to_batch(small_windows(), np.array([0, 1, 2, 0, 1, 2]))
    for whole, half in zip(svg_loss(model, twice, Weights(0.5, 0.5), None), loss, strict=True):
        torch.testing.assert_close(whole, half)
    drawn = [svg_loss(model, batch, Weights(0.5, 0.5), torch.Generator().manual_seed(seed)).mse for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_every_weight_learns_and_the_prior_by_the_kl_alone() -> None:
    model = _svg()
    svg_loss(model, small_batch(), Weights(1e-3, 1e-3), torch.Generator().manual_seed(0)).total.backward()  # type: ignore[no-untyped-call]
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still
    model.zero_grad()
    svg_loss(model, small_batch(), NO_WEIGHTS, torch.Generator().manual_seed(0)).total.backward()  # type: ignore[no-untyped-call]
    assert not any(p.grad is not None and p.grad.any() for p in model.prior.parameters())


def test_half_precision_gives_nearly_the_same_loss_and_full_precision_gradients() -> None:
    model, batch = _svg(), small_batch()
    with torch.autocast("cpu", torch.bfloat16):
        half = svg_loss(model, batch, Weights(1e-6, 1e-6), None)
    assert half.total.dtype == torch.float32
    torch.testing.assert_close(half.mse, svg_loss(model, batch, Weights(1e-6, 1e-6), None).mse, rtol=0.02, atol=0)
    half.total.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_skip_connections_are_those_of_the_last_context_frame() -> None:
    model, batch = _svg(), small_batch(1)
    seen: list[Tensor] = []
    model.decoder.stages[-1].register_forward_pre_hook(lambda _, args: seen.append(args[0][:, -8:]))
    svg_loss(model, batch, Weights(1e-6, 1e-6), None)
    _, skips = model.encoder(batch.frames)
    torch.testing.assert_close(seen[0], skips[0][[0, 1, 1, 1]])
    seen.clear()
    context = batch.frames[None, :2]
    model.rollout(context, _actions(1, 4))
    for shown in seen:
        torch.testing.assert_close(shown, skips[0][1:2])
